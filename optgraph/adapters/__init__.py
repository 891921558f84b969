"""optgraph behind other projects' interfaces. Uses report and what is below."""
