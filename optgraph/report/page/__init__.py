"""One HTML file of a compile, to be looked at in a browser. Uses report and what is below."""
