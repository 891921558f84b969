"""What our driver code hands libcuda is what Triton's own launcher does, for every kernel."""

from __future__ import annotations

import pytest

from optgraph.base import config
from optgraph.base.devices import SM_80, SM_90
from tests.launcher.compare import compared, differences, missing
from tests.support.kernel_checks import KERNELS

LAUNCH = "launch pool of 12 grid 3 1 1 block 128 1 1 shared {} stream 0x5731 attributes 0, 0100000000000000, 05000000"


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_every_launch_is_tritons_to_the_byte() -> None:
    rows = compared(config.cubin_cache() / "launcher", (SM_90, SM_80), ("fp16",), few=True)
    assert [row.differences for row in rows] == [[]] * len(rows)
    assert [(row.kernel, row.target) for row in rows] == [
        (kernel.name, str(target)) for target in (SM_90, SM_80) for kernel in KERNELS
    ]
    assert all(row.launches for row in rows)
    assert {row.target for row in rows if row.early == row.launches} == {str(SM_90)}
    assert {row.kernel for row in rows if row.maps} == {"pointwise", "conv2d"}


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ([LAUNCH.format(0)], [LAUNCH.format(0)], []),
        ([LAUNCH.format(0)], [LAUNCH.format(0)[:-1] + "1"], ["theirs 05000000, ours 05000001"]),
        ([LAUNCH.format(0)], ["load pool of 12", LAUNCH.format(0)], ["theirs makes 1 calls, ours 2"]),
        ([LAUNCH.format(0)], [LAUNCH.format(0) + ", 07"], ["theirs hands over 3 things, ours 4"]),
        (
            ["attribute 8 of pool = 232448", LAUNCH.format(65536)],
            ["attribute 8 of pool = 65536", LAUNCH.format(65536)],
            [],
        ),
        (
            ["attribute 8 of pool = 232448", LAUNCH.format(65536)],
            [LAUNCH.format(65536)],
            [
                "theirs sets 1 attributes, ours 0",
                "ours is launched with 65536 bytes of shared memory, and may have 49152",
            ],
        ),
    ],
)
def test_a_difference_is_told(theirs: list[str], ours: list[str], said: list[str]) -> None:
    found = list(differences(theirs, ours))
    assert len(found) >= len(said) and found[: len(said)] == said
