"""Pictures as networks want them, and the names of what is in them. Uses base, ir and onnx."""
