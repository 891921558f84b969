"""A network against others: verified and timed. Uses api and what is below."""
