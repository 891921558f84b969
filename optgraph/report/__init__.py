"""What people are told, as plain data and as tables. Uses compare and what is below."""
