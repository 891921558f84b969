"""What a model may ask for: limits that no real network comes near, and a hostile file soon passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from optgraph.base.errors import InputError, ModelError


@dataclass(frozen=True)
class Budget:
    """Limits on one model.

    Attributes:
        nodes: ONNX nodes, once local functions are inlined.
        folded_bytes: of the constants that constant folding adds, beyond those they replace.
        arena_bytes: of the activations of one plan, or of a single tensor.
        nesting: how deep local functions call each other.
    """

    nodes: int = 200_000
    folded_bytes: int = 512 << 20
    arena_bytes: int = 16 << 30
    nesting: int = 32

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Budget:
        """The defaults but for `arguments`, each NAME=NUMBER.

        Raises:
            InputError: anything else.
        """
        names = [f.name for f in fields(cls)]
        values: dict[str, int] = {}
        for argument in arguments:
            name, _, number = argument.partition("=")
            if name not in names or not number.isdecimal() or not number.isascii() or len(number) > 18:
                raise InputError(f"--budget {argument}: expects NAME=NUMBER, NAME one of {', '.join(names)}")
            values[name] = int(number)
        return cls(**values)

    def check(self, name: str, needed: int, what: str) -> None:
        """Refuses what is too much.

        Args:
            name: of the limit.
            needed: how much of it is asked for.
            what: says of what, such as '9 nodes'.

        Raises:
            ModelError: `needed` is over the limit.
        """
        limit = getattr(self, name)
        if needed > limit:
            raise ModelError(f"{what}, over the budget of {limit}", f"if that is meant, --budget {name}={needed}")


DEFAULT = Budget()
