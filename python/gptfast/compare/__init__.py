"""Compare runs, finished or in progress."""
