"""Programs of torch as ONNX models. Uses run and what is below."""
