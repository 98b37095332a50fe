"""All cases of `cases_*.py`, run by two or four processes at once."""
