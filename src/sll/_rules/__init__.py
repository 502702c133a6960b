"""What is known about torch functions: data, one row for each."""
