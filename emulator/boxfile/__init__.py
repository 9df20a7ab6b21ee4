"""Behind ``config.py``: turns a checked box file into a BoxSpec. Standard library only."""
