"""The region at work: what it notes, watches, and runs again."""
