"""The region at work: a file for each file of `_mode`."""
