"""``forward="linear"``: a file for each file of `_carry/outcomes`."""
