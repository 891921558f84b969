"""`optgraph run ... -o table.csv` or `.parquet`: a row for each of many pictures, resumed after an interruption."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from optgraph.base.errors import InputError
from optgraph.cli.images import AT_ONCE
from optgraph.cli.options import ModelOptions
from optgraph.cli.pictures import ClassOptions
from optgraph.cli.say import Say
from optgraph.cli.written import check_outputs, source_file
from optgraph.pictures.decode import FORMATS

if TYPE_CHECKING:
    from optgraph.api.net import Net

SUFFIXES = (".csv", ".parquet")


class Table(NamedTuple):
    """What is asked for: `--output`, `--top`, `--raw` and `--batch`."""

    output: Path
    top: int
    raw: bool
    batch: int | None


def tabulate(
    model: Path,
    given: Sequence[str],
    table: Table,
    backend: str,
    pictures: ClassOptions,
    options: ModelOptions,
    say: Say,
) -> int:
    """The command, with its options as `run` has them. Returns the exit code: 1 if a picture has no answer."""
    from optgraph.report.results import table_parts
    from optgraph.table.rows import SUFFIX, kept

    output = Path(os.path.realpath(table.output)) if table.output.is_symlink() else table.output
    unfinished = output.with_name(output.name + SUFFIX)
    check_outputs([output, unfinished], model, pictures.labels)
    sources = _sources(given, output, unfinished)
    try:
        with say.busy(f"loading {model.name}"):
            net = _net(model, backend, options, given)
            pictures.apply(net)
        data = _filled(net, sources, table, output, unfinished, say)
    except KeyboardInterrupt:
        if unfinished.exists():
            say.note([f"stopped: {kept(unfinished):,} rows are in {unfinished}: the same command goes on from there"])
        return 130
    say.note(options.overridden(model))
    say.show(data, *table_parts(data))
    return 1 if data["failed"] else 0


def _sources(given: Sequence[str], output: Path, unfinished: Path) -> list[str]:
    """The files and folders, each once, as soon as it is known that a table can be made of them."""
    from optgraph.table.formats import check_format
    from optgraph.table.found import check_sources
    from optgraph.table.rows import taken

    if output.exists() and not unfinished.exists():
        raise taken(output)
    check_format(output)
    sources = list(dict.fromkeys(map(source_file, given)))
    check_sources(sources)
    return sources


def _filled(net: Net, sources: Sequence[str], table: Table, output: Path, unfinished: Path, say: Say) -> dict[str, Any]:
    """The table, made or finished; returns what is to be said of it."""
    from optgraph.compare.verify import computed_dtype
    from optgraph.report.results import TOLD
    from optgraph.table.columns import Columns
    from optgraph.table.fill import Runner, fill
    from optgraph.table.formats import check_columns, write
    from optgraph.table.found import pictures
    from optgraph.table.identity import identity
    from optgraph.table.rows import Rows

    with say.busy("looking for pictures"):
        number = sum(1 for _ in pictures(sources))
    if not number:
        raise InputError(f"{', '.join(sources)}: no pictures in it ({', '.join(FORMATS)})")
    runner = Runner(net, table.batch, min(AT_ONCE, number))
    columns = Columns(runner.example(), net.labels, table.top, table.raw)
    check_columns(output, columns)
    about = identity(net, columns, sources)
    with Rows(unfinished, about) as rows:
        rows.check(output)
        before, start = rows.count(), time.monotonic()
        with say.counted("pictures") as tell:
            made = fill(runner, columns, rows, lambda: pictures(sources), tell)
        seconds = time.monotonic() - start
        data: dict[str, Any] = {"backend": net.backend, "dtype": computed_dtype(net), "batch": runner.batch}
        data |= {"preprocessing": runner.preprocess.described(), "columns": [each.name for each in columns.shown]}
        data |= {"rows": rows.count(), "before": before, "failed": rows.failed()}
        data["errors"] = [{"picture": name, "error": error} for name, error in rows.errors(TOLD)]
        data |= {"seconds": round(seconds, 3), "pictures_per_second": round(made / seconds, 1)}
        with say.busy(f"writing {output.name}"):
            rows.finish(output, write(output, columns, rows, about))
    return data | {"output": str(output)}


def _net(model: Path, backend: str, options: ModelOptions, given: Sequence[str]) -> Net:
    """The network at one size: a table's pictures all become of that."""
    from optgraph.onnx.sizes import sizes_text

    net = options.net(model, backend)
    for argument in given:
        name = argument.removesuffix(source_file(argument)).rstrip("=")
        if name and name not in net.inputs:
            raise InputError(f"--input {argument}: no input '{name}': the network has {', '.join(net.inputs)}")
    sizes = options.asked_sizes() or net.sizes
    if len(sizes) > 1:
        raise InputError(f"the pictures of a table are all made one size: give one of {sizes_text(sizes)} as --sizes")
    return net
