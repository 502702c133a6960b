"""``forward="hard"``: a file for each file of `_carry/flips`."""
