"""The Triton code of the kernels, imported when one is compiled or run. Uses frame."""
