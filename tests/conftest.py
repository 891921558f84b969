"""Kernels run in Triton's interpreter unless the tests are asked for the GPU (`pytest -m gpu`)."""

import os

from hypothesis import settings

if not os.environ.get("OPTGRAPH_TEST_GPU"):
    os.environ["TRITON_INTERPRET"] = "1"

# No test is timed: on a busy machine an example takes many times longer.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
