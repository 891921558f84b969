"""ONNX files in and out. Uses what is below: base, ir, kernels, plan and ops."""
