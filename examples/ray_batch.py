"""A folder of pictures through a network by Ray, on as many machines as a cluster has; the best classes, in Parquet.

    pip install optgraph "ray[data]"
    python examples/ray_batch.py MODEL FOLDER OUTPUT [--actors 2] [--batch 32] [--gpus 1]

On one machine `optgraph run MODEL FOLDER -o table.parquet` does this, and needs no Ray. Here each actor of a pool has
the network loaded and answers batches, whose answers it writes to a file of its own in the folder OUTPUT: Ray's own
write tasks would wait until the actors let go of the processors. After an interruption the same command goes on with
the pictures that no file has. On a cluster (RAY_ADDRESS) every machine is to see the three paths.

Without arguments: 40 pictures of noise through MobileNet with calibrated random weights, and once more with some of the
answers taken away.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from PIL import Image

import optgraph
from optgraph.onnx import calibrate
from optgraph.pictures.decode import FORMATS

MOBILENET = Path(__file__).parent / "graphs" / "dynamo_mobilenet_v1.onnx"
SCHEMA = pa.schema([("path", pa.string()), ("class", pa.int32()), ("score", pa.float32()), ("error", pa.string())])


class Classifier:
    """An actor: loads the network once, then answers batch after batch."""

    def __init__(self, model: str, folder: str, output: str) -> None:
        self.net = optgraph.load(model) if model.endswith(".optgraph") else optgraph.compile(model)
        self.folder, self.output = Path(folder), Path(output)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Writes a row for each `path`: the best `class` of the first output and its `score`, or an `error`."""
        rows: list[dict[str, Any]] = [{"path": path} for path in batch["path"].tolist()]
        pictures = []
        for row in rows:
            try:
                pictures.append(self.net.preprocess(self.folder / row["path"]))
            except optgraph.InputError as error:
                row["error"] = str(error)
        if pictures:
            answer = self.net(np.concatenate(pictures))
            scores = np.asarray(next(iter(answer.values())) if isinstance(answer, dict) else answer)
            read = (row for row in rows if "error" not in row)
            for row, score in zip(read, scores.reshape(len(pictures), -1), strict=True):
                row |= {"class": int(score.argmax()), "score": float(score.max())}
        # Called after its pictures: a batch that Ray has done again is the same file again. Renamed: none is cut off.
        name = hashlib.sha256("\0".join(row["path"] for row in rows).encode()).hexdigest()[:16]
        temporary = self.output / f".{name}.{os.getpid()}.tmp"
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
        os.replace(temporary, self.output / f"{name}.parquet")
        return {"rows": np.array([len(rows)])}


def main(model: str, folder: Path, output: Path, actors: int, batch: int, gpus: float) -> None:
    """Answers the pictures that `output` has no answers of."""
    output.mkdir(parents=True, exist_ok=True)
    known = {path for file in output.glob("*.parquet") for path in pq.read_table(file)["path"].to_pylist()}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in FORMATS}
    todo = sorted(found - known)
    print(f"{len(known)} pictures are answered, {len(todo)} are not", flush=True)
    if not todo:
        return
    start = time.perf_counter()
    pictures = ray.data.from_items([{"path": path} for path in todo], override_num_blocks=-(-len(todo) // batch))
    answers = pictures.map_batches(
        Classifier,
        fn_constructor_args=(model, str(folder), str(output)),
        batch_size=batch,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_gpus=gpus or None,
    )
    rows = sum(row["rows"] for row in answers.iter_rows())
    print(f"{rows} pictures in {time.perf_counter() - start:.1f} s, the start of {actors} actors among them")


def demo() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary, "pictures"), Path(temporary, "answers")
        (folder / "inner").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(40):
            colours = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
            colours.resize((320, 256)).save(folder / ("inner" if i % 2 else "") / f"{i:02}.jpg")
        (folder / "broken.jpg").write_bytes(b"no picture")
        model = str(Path(temporary, "mobilenet.optgraph"))
        optgraph.compile(calibrate.calibrate(onnx.load(MOBILENET, load_external_data=False))).save(model)
        main(model, folder, output, 2, 8, 0)
        for file in sorted(output.glob("*.parquet"))[:2]:
            file.unlink()
        print("two files of answers taken away")
        main(model, folder, output, 2, 8, 0)
        table = pq.read_table(output).to_pylist()
        assert len({row["path"] for row in table}) == len(table) == 41
        failed = [row["path"] for row in table if row["error"]]
        print(f"{len(table)} rows, none twice; failed: {', '.join(failed)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    options = parser.parse_args()
    try:
        ray.init(log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        if options.output is None:
            demo()
        else:
            main(**vars(options))
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here")
        raise SystemExit(130) from None
