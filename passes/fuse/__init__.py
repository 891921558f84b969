"""Passes that make operators of our own. Uses ops and what is below."""
