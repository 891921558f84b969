"""Scripts that measure; see README.md. A package, so that no other of this name is taken for it."""
