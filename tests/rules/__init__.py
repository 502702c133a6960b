"""What is known about torch functions: a file for each file of `_rules`."""
