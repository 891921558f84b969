"""How facts and lists of things are laid out, at any width of a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from optgraph.base.errors import printable


def plain(text: str) -> Text:
    """Text from a file, shown as it is: no markup, and nothing that a terminal would obey."""
    return Text(printable(text), overflow="fold")


def facts_table(rows: Mapping[str, str | Sequence[str]]) -> Table:
    """A table of one name and one text a row, or several, a line each."""
    table = Table.grid("", "", padding=(0, 2))
    for key, value in rows.items():
        lines = [value] if isinstance(value, str) else value
        table.add_row(Text(key, style="bold"), Text("\n", overflow="fold").join(map(plain, lines)))
    return table


class Listing(Table):
    """A table; where it is wider than the terminal, a paragraph for each row, for columns would break in mid-number."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = console.measure(self, options=options.update(max_width=10_000)).maximum
        if whole <= options.max_width or len(self.columns) <= _NARROW:
            yield from super().__rich_console__(console, options)
            return
        names = [str(column.header) for column in self.columns]
        for first, *others in zip(*(column.cells for column in self.columns), strict=True):
            yield first if isinstance(first, Text) else Text(str(first))
            facts = [f"{name} {cell}" for name, cell in zip(names[1:], others, strict=True) if str(cell)]
            yield Padding(Text(", ".join(facts)), (0, 0, 0, 4))


_NARROW = 4  # columns that wrap well at any width


def listing(*columns: str) -> Table:
    """A table whose first column is text and whose others, but for a last 'top' one, are numbers."""
    table = Listing(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column.startswith("top") else "right")
    return table
