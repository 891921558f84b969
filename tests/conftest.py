"""Kernels run in Triton's interpreter unless the tests are asked for the GPU (`pytest -m gpu`)."""

import os

if not os.environ.get("OPTGRAPH_TEST_GPU"):
    os.environ["TRITON_INTERPRET"] = "1"
