"""Kernels and facts that everything else stands on."""
