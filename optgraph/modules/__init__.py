"""Programs of torch as ONNX models. Uses onnx and what is below."""
