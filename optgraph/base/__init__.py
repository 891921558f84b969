"""What knows nothing of networks: errors, files, limits, devices. Uses nothing else of optgraph."""
