"""Launches by themselves: checked, timed, tuned. Uses run and what is below."""
