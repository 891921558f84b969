"""ONNX's own operators in plain torch, each in the meaning of the opset it came in. Uses base, ir and ops.

A file a family; `table` puts them together. They serve what has no class of its own (`ops/opaque.py`), and constants.
"""
