"""Are broken kernels caught? Each mutation must give a wrong answer or a fault in at least one schedule."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.emulator.compiler import CompileError, compile_all
from tests.emulator.mutations import (
    AMPERE,
    BLOCKS,
    CHAINED,
    CHAINED_TMA,
    GATHERED,
    HALO,
    HALO_INT8,
    INT8,
    MUTATIONS,
    SPECIALISED,
    STREAMED,
    TMA,
    Setting,
)
from tests.emulator.schedule import SCHEDULES

SETTINGS = {
    "TMA": TMA,
    "gathered": GATHERED,
    "sm_80": AMPERE,
    "chained": CHAINED,
    "chained by TMA": CHAINED_TMA,
    "specialised": SPECIALISED,
    "blocks": BLOCKS,
    "halo": HALO,
    "streamed": STREAMED,
    "halo of int8": HALO_INT8,
    "int8": INT8,
}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All kernels, by one process. One that does not compile must not hide the others."""
    with suppress(CompileError):
        compile_all(setting.wanted() for setting in SETTINGS.values())


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_kernel_itself_is_right(setting: Setting) -> None:
    cubin = setting.cubin()
    assert [setting.outcome(cubin, schedule) for schedule in SCHEDULES] == ["right"] * len(SCHEDULES)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_caught(name: str) -> None:
    setting, mutate = MUTATIONS[name]
    cubin = mutate(setting.cubin())
    # The last schedule, of the most different orders, catches most of them: the others are seldom asked.
    assert any(setting.outcome(cubin, schedule) != "right" for schedule in reversed(SCHEDULES))
