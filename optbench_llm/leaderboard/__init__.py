"""The leaderboard: from a recipe to trials, a store and a ranked table."""
