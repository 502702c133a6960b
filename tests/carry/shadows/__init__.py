"""``forward="straight-through"``: a file for each file of `_carry/shadows`."""
