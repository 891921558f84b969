"""What `make gpu` runs: steps in an order, each a file with its tasks, done by processes that may break."""
