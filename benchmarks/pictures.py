"""Pictures a second into a table, decoded in threads while the network runs, and decoded in between.

    python -m benchmarks.pictures [--pictures 400]

MobileNet with calibrated weights on ONNX Runtime, and JPEG files of 640×480 as detailed as photographs. The ways
take turns. Writes benchmarks/results/pictures.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

import optgraph
from benchmarks import record
from optgraph.base.images import images
from optgraph.base.progress import uncounted
from optgraph.onnx import calibrate
from optgraph.table.columns import Columns
from optgraph.table.fill import Runner, fill, workers
from optgraph.table.found import pictures
from optgraph.table.rows import Rows

ROUNDS, BATCH = 5, 32
SIZE = 480, 640


def written(folder: Path, number: int) -> Path:
    """So many pictures in a folder."""
    folder.mkdir()
    for i in range(number):
        smooth = images(i, (1, *SIZE, 3), channels_last=True)[0]
        Image.fromarray((128 + 50 * smooth).clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.jpg", quality=90)
    return folder


def main(number: int) -> None:
    threads = workers()
    ways = {"threads": threads, "in between": 0}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = written(Path(temporary, "pictures"), number)
        graph = record.GRAPHS / "dynamo_mobilenet_v1.onnx"
        net = optgraph.compile(calibrate.calibrate(onnx.load(graph, load_external_data=False)), "onnxruntime")
        runner = Runner(net, BATCH, BATCH)
        columns = Columns(runner.example())
        for round_ in range(ROUNDS):
            for way, decoding in ways.items():
                with Rows(Path(temporary, f"{round_} {way}"), {}) as rows:
                    start = time.perf_counter()
                    made = fill(runner, columns, rows, lambda: pictures([str(folder)]), uncounted, decoding)
                    seconds[way].append(time.perf_counter() - start)
                    assert made == number and not rows.failed()
        pixels = np.concatenate([runner.read(Path(entry.path)) for entry in list(pictures([str(folder)]))[:BATCH]])
        for _ in range(ROUNDS):
            start = time.perf_counter()
            net(pixels)
            seconds.setdefault("network alone", []).append((time.perf_counter() - start) * number / BATCH)
    rows = [{"way": way, "pictures_per_second": round(number / statistics.median(s), 1)} for way, s in seconds.items()]
    for row in rows:
        print(row)
    print(record.write("pictures", rows, threads=threads, pictures=number, batch=BATCH))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=400)
    main(parser.parse_args().pictures)
