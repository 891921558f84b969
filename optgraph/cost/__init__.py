"""What launches cost, counted and predicted. Uses passes and what is below."""
