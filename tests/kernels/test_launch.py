"""What launchers make: arguments that fit the jit function, with no Triton at hand."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from optgraph.base.devices import INTERPRET, SM_90
from optgraph.kernels.frame.arguments import Jit
from optgraph.kernels.frame.kernel import Kernel
from optgraph.tune.layers import Layer
from tests.support.kernel_checks import KERNELS
from tests.support.paths import ROOT


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_arguments_and_constants_are_those_of_the_jit_function_in_its_order(kernel: Kernel) -> None:
    """A compiled kernel takes them by position; the interpreter, by name, would not notice."""
    for _, sample in kernel.samples():
        for dtype, target in (("fp32", INTERPRET), ("fp16", SM_90)):
            launch = Layer(kernel, sample.typed(dtype)).dry(target)
            function = launch.code.load()
            assert [*launch.arguments, *launch.constants] == list(function.arg_names), sample
            declared = function.fn.__annotations__
            assert list(launch.constants) == [name for name, kind in declared.items() if "constexpr" in str(kind)]


def test_no_tuple_is_compared_with_none() -> None:
    """Triton 3.6 cannot do it where a part of the tuple is None."""
    launches = [Layer(kernel, next(iter(kernel.samples()))[1].typed("fp16")).dry(SM_90) for kernel in KERNELS]
    given = [item for launch in launches for item in launch.arguments.items()]
    tuples = {name for name, value in given if isinstance(value, tuple) and not isinstance(value, Jit)}
    assert {"pre", "end", "image"} <= tuples
    for path in (ROOT / "kernels" / "jit").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot):
                assert ast.unparse(node.left) not in tuples, f"{path.name}:{node.lineno}"


LAUNCH_ALL = """
import importlib, sys, torch
from optgraph.base.devices import SM_90
from optgraph.kernels.frame.launch import targeting
from optgraph.kernels.frame.sample import Operands

for name in sys.argv[1:]:
    kernel = getattr(importlib.import_module(f"optgraph.kernels.{name}"), name.upper())
    for _, sample in kernel.samples():
        with targeting(SM_90):
            assert Operands(kernel, sample.typed("fp16"), torch.device("meta")).launch().variant.parameters
    assert "triton" not in sys.modules, name
print("no Triton")
"""


def test_launchers_need_no_triton() -> None:
    names = sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))
    run = subprocess.run([sys.executable, "-c", LAUNCH_ALL, *names], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "no Triton\n", run.stderr
