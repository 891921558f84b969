"""The command line. Uses all of optgraph."""
