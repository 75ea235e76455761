"""What a step communicates and keeps, counted, put in formulas and carried on; see `scaling.py`."""
