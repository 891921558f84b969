"""A fused graph made ready to run: launches, views, one arena, a schedule. Uses base, ir and kernels."""
