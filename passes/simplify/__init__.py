"""Passes that leave standard ONNX. Uses ops and what is below."""
