"""`python -m optgraph` is the command `optgraph`, for a checkout that is not installed."""

from optgraph.cli.main import main

main()
