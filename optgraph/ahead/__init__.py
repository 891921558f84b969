"""Kernels compiled with no GPU at hand. Uses cost and what is below."""
