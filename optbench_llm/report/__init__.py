"""The page, the figures and what is shared of them: from the tables and trials of stores alone."""
