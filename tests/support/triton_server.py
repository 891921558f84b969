"""Triton Inference Server as the wheel nvidia-pytriton carries it: where it is, started on a repository, and asked."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.support.paths import ROOT

STARTS = 120  # seconds, at most, that it takes to be ready

_NAMES = {"BOOL": "bool", "BF16": ml_dtypes.bfloat16, "FP16": "float16", "FP32": "float32", "FP64": "float64"}
_NAMES |= {f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_DTYPES = {name: np.dtype(dtype) for name, dtype in _NAMES.items()}
_CODES = {dtype: name for name, dtype in _DTYPES.items()}


def why_not_here() -> str:
    """Why there is no server to be run here; '' if there is."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "Triton Inference Server's wheel is for Linux on x86-64"
    if _wheel() is None:
        return "Triton Inference Server is not here: make real fetches it"
    if not _stub().is_file():
        return f"the wheel has no stub for Python {sys.version_info.major}.{sys.version_info.minor}"
    for file in (_root() / "bin" / "tritonserver", _stub()):
        listed = subprocess.run(["ldd", file], env=_environment(), capture_output=True, text=True).stdout
        missing = re.findall(r"(\S+) => not found", listed)
        if missing:
            return f"{file.name} needs {', '.join(missing)}, not installed here"
    return ""


def _wheel() -> Path | None:
    spec = importlib.util.find_spec("pytriton")
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def _root() -> Path:
    wheel = _wheel()
    assert wheel is not None
    return wheel / "pytriton" / "tritonserver"


def _stub() -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _root() / "python_backend_stubs" / version / "triton_python_backend_stub"


def _environment(python: Path | None = None) -> dict[str, str]:
    """Its libraries; and first on the path `python`, whose packages are the stub's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_", "OPTGRAPH_", "PYTHON"))}
    path = f"{python.parent}{os.pathsep}{kept['PATH']}" if python else kept["PATH"]
    return kept | {"PATH": path, "LD_LIBRARY_PATH": str(_root().parents[1] / "nvidia_pytriton.libs")}


@dataclass
class Response:
    """status: of HTTP. said: the JSON. outputs: the tensors."""

    status: int
    said: Any
    outputs: dict[str, np.ndarray]


@dataclass
class Server:
    """A running server. Several threads may ask it."""

    port: int
    metrics_port: int
    log: Path

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, _, answer = self._http(self.port, method, path, json.dumps(body or {}).encode())
        return status, json.loads(answer) if answer else None

    def infer(self, model: str, feeds: Mapping[str, np.ndarray], **parameters: Any) -> Response:
        """A request by the protocol's binary extension. parameters: of every output, in place of all outputs' bytes."""
        inputs = [
            {"name": n, "shape": x.shape, "datatype": _CODES[x.dtype], "parameters": {"binary_data_size": x.nbytes}}
            for n, x in feeds.items()
        ]
        asked: dict[str, Any] = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        if parameters:
            asked |= {"outputs": [{"name": n, "parameters": parameters[n]} for n in parameters], "parameters": {}}
        head = json.dumps(asked).encode()
        body = head + b"".join(np.ascontiguousarray(x).tobytes() for x in feeds.values())
        headers = {"Inference-Header-Content-Length": str(len(head))}
        status, found, answer = self._http(self.port, "POST", f"/v2/models/{model}/infer", body, headers)
        size = int(found.get("Inference-Header-Content-Length", len(answer)))
        said, rest, outputs = json.loads(answer[:size]), answer[size:], {}
        for each in said.get("outputs", ()):
            taken = each.get("parameters", {}).get("binary_data_size", 0)
            if taken:
                outputs[each["name"]] = np.frombuffer(rest[:taken], _DTYPES[each["datatype"]]).reshape(each["shape"])
            rest = rest[taken:]
        return Response(status, said, outputs)

    def counts(self, model: str) -> tuple[int, int]:
        """Images inferred and calls made, by the statistics of all versions."""
        _, said = self.ask("GET", f"/v2/models/{model}/stats")
        stats = said["model_stats"]
        return sum(s["inference_count"] for s in stats), sum(s["execution_count"] for s in stats)

    def metric(self, name: str, model: str) -> float:
        """The sum of a metric over a model's versions."""
        _, _, text = self._http(self.metrics_port, "GET", "/metrics", b"")
        found = re.findall(rf'^{name}{{[^}}]*model="{model}"[^}}]*}} (\S+)$', text.decode(), re.MULTILINE)
        assert found, name
        return sum(map(float, found))

    def _http(
        self, port: int, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read()  # type: ignore[return-value]
        finally:
            connection.close()


@contextmanager
def running(repository: Path, folder: Path) -> Iterator[Server]:
    """A server of all models in `repository`, whose Python is one with this checkout. folder: for what it needs."""
    backends = folder / "backends" / "python"
    shutil.copytree(_root() / "backends" / "python", backends)
    shutil.copy(_stub(), backends)
    python = _python(folder / "venv")
    port, metrics_port = _free_ports(2)
    options = {"model-repository": repository, "backend-directory": backends.parent, "allow-grpc": "false"}
    options |= {"http-address": "127.0.0.1", "http-port": port, "metrics-address": "127.0.0.1"}
    options |= {"metrics-port": metrics_port, "model-control-mode": "explicit", "load-model": "*"}
    log = folder / "server.log"
    command = [_root() / "bin" / "tritonserver", *(f"--{name}={value}" for name, value in options.items())]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=_environment(python), cwd=folder)
    server = Server(port, metrics_port, log)
    try:
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTS
    while time.monotonic() < end and process.poll() is None:
        try:
            if server.ask("GET", "/v2/health/ready")[0] == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server is not ready:\n{server.log.read_text()[-4000:]}")


def _python(folder: Path) -> Path:
    """A Python with the packages of this one, and the checkout for optgraph: the stub takes the first on the path."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    spec = importlib.util.find_spec("torch")
    assert spec and spec.origin
    (site / "needed.pth").write_text(f"{ROOT}\n{Path(spec.origin).parents[1]}\n")
    return folder / "bin" / "python3"


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
