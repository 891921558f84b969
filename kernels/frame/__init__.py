"""What kernels share and need no Triton for: operands, windows, ends, tiles, launches. Uses base and ir."""
