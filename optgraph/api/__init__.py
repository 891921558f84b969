"""What a user calls: compile, load, Net, check. Uses tune and what is below."""
