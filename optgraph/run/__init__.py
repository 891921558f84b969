"""What runs a plan or a graph: kernels, ONNX Runtime, torch. Uses ahead and what is below."""
