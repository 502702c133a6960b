"""What a definition makes of a function of torch: a file for each file of `_carry/definitions`."""
