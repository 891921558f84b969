"""GPUs by the names that people call them."""

from __future__ import annotations

import pytest

from optgraph.base.devices import CARDS, DEVICES, SM_80, SM_86, SM_89, SM_90, Target
from optgraph.base.errors import InputError


@pytest.mark.parametrize(
    ("name", "target"),
    [("h100", SM_90), ("A100", SM_80), ("l4", SM_89), ("RTX 4090", SM_89), ("rtx-3090", SM_86), ("sm_90", SM_90)],
)
def test_a_card_is_its_compute_capability(name: str, target: Target) -> None:
    assert Target.parse(name) == target


def test_every_card_can_be_compiled_for() -> None:
    assert set(CARDS.values()) == set(DEVICES)


@pytest.mark.parametrize("name", ["", "h10", "rtx", "90", "sm_9", "sm_90 "])
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown target '{name}': use sm_80, sm_86, .*h100.*rtx4090"):
        Target.parse(name)
