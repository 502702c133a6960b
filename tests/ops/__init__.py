"""Kernels and facts: a file for each file of `_ops`."""
