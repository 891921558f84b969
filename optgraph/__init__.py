"""optgraph: compiles ONNX convolutional networks to fused, hand-written Triton kernels."""
