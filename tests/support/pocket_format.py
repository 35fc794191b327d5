"""A small format written properly: a zip of JSON and arrays, run by numpy alone.

It is light and quick, and the contract of formats is tested on it and on copies that go wrong.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import (
    Artifact,
    Backend,
    Context,
    ExportRequest,
    LoadedModel,
    Option,
    Precision,
    Runner,
)
from timmx_core.errors import ArtifactError, ExportError, RequestError
from timmx_core.toolkit.content import ContentDigest

if TYPE_CHECKING:
    import numpy as np
    import torch

GRAPH, WEIGHTS, MANIFEST = "graph.json", "weights.npz", "timmx.json"
MOST_BYTES = 64 << 20
LEVELS = 9
REFUSES = {"labels": "there is no room for names of classes"}


class PocketBackend(Backend):
    """The format `pocket`."""

    name = "pocket"
    help = "A zip of JSON and arrays, for tests."
    suffixes = (".pocket",)
    precisions: tuple[Precision, ...] = (
        Precision("fp32", "float32", "float32", floor_db=80.0),
        Precision("fp16", "float16", "float32", floor_db=30.0),
    )
    options: tuple[Option, ...] = (
        Option("level", "int", "How hard to compress.", 1, minimum=0),
        Option("threads", "int", "Threads that the runtime uses.", 1, minimum=1, phase="run"),
    )
    refuses = REFUSES
    requires = ("numpy",)

    def check_export(self, request: ExportRequest | None) -> None:
        if request is not None and request.options["level"] > LEVELS:
            raise RequestError(f"--level is at most {LEVELS}, as zip files have it")

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        with context.stage("capture"):
            program = model.capture()
        with context.stage("write the archive"):
            graph, weights = describe(program, [o.name for o in model.outputs])
            graph |= self.describe(model)
            dtype = "float16" if request.precision.name == "fp16" else "float32"
            write(context.primary, graph, weights, dtype, request.options["level"])
        return Artifact(
            context.primary, model.inputs, model.outputs, report={"nodes": len(graph["nodes"])}
        )

    def describe(self, model: LoadedModel) -> dict[str, Any]:
        """What else the file is to hold."""
        return {}

    def preload(self) -> None:
        import numpy as np  # noqa: F401

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        assert options["threads"] >= 1
        return PocketRunner(path)

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        with zipfile.ZipFile(artifact.primary, "a") as archive:
            archive.writestr(zipfile.ZipInfo(MANIFEST), manifest)
        return True

    def read(self, path: Path) -> bytes | None:
        if not path.is_file():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                if GRAPH not in archive.namelist() or MANIFEST not in archive.namelist():
                    return None
                with archive.open(MANIFEST) as entry:
                    return entry.read(MOST_BYTES + 1)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            if path.suffix in self.suffixes:
                raise ArtifactError(f"{path.name} is not a pocket file: {error}") from error
            return None

    def content_digest(self, path: Path) -> str | None:
        digest = ContentDigest()
        digest.add_archive(path, without={MANIFEST})
        return digest.hexdigest()

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        names = [output["name"] for output in manifest["outputs"]]
        return (
            "from pathlib import Path\nfrom pocket_format import PocketRunner\n"
            f"given = PocketRunner(Path(path)).run({{'input': x}})\n"
            f"outputs = [given[name] for name in {names!r}]\n"
        )


def write(
    path: Path, graph: Mapping[str, Any], weights: Mapping[str, np.ndarray], dtype: str, level: int
) -> None:
    """The archive without a manifest, the same bytes for the same content."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **{name: array.astype(dtype) for name, array in sorted(weights.items())})
    with zipfile.ZipFile(path, "w", compresslevel=level) as archive:
        archive.writestr(zipfile.ZipInfo(GRAPH), json.dumps(graph))
        archive.writestr(zipfile.ZipInfo(WEIGHTS), buffer.getvalue())


def describe(
    program: torch.export.ExportedProgram, outputs: list[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The captured graph as JSON, and the arrays that it uses.

    :raises ExportError: an operator that the runner lacks.
    """
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    held = {**program.state_dict, **program.constants}
    weights: dict[str, np.ndarray] = {}
    nodes: list[dict[str, Any]] = []
    results: list[Any] = []
    given: list[str] = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            if node.users:
                weights[node.name] = held[names[node.name]].detach().numpy()
        elif node.op == "placeholder":
            given.append(node.name)
        elif node.op == "output":
            results = [reference(a) for a in node.args[0]]
        elif node.users:
            operator = str(getattr(node.target, "__name__", node.target)).split(".")[0]
            if operator not in OPERATORS:
                raise ExportError(f"pocket has no operator {operator} (in {node.name})")
            arguments = [reference(argument) for argument in node.args]
            keywords = {key: reference(value) for key, value in node.kwargs.items()}
            nodes.append({"name": node.name, "op": operator, "args": arguments, "kw": keywords})
    graph = {"input": given[0], "nodes": nodes, "results": results, "outputs": outputs}
    return graph, weights


def reference(value: Any) -> Any:
    """An argument as JSON; another node is {"node": name}."""
    if hasattr(value, "op") and hasattr(value, "target"):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [reference(item) for item in value]
    return value if isinstance(value, (int, float, bool, type(None))) else str(value)


class PocketRunner(Runner):
    """Walks the graph."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.name = f"pocket on numpy {np.__version__}"
        try:
            with zipfile.ZipFile(path) as archive:
                self.graph = json.loads(archive.read(GRAPH))
                arrays = np.load(io.BytesIO(archive.read(WEIGHTS)), allow_pickle=False)
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ArtifactError(f"{path.name} is not a pocket file: {error}") from error
        self.weights = {name: arrays[name].astype(np.float32) for name in arrays.files}

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        values: dict[str, Any] = {**self.weights, self.graph["input"]: inputs["input"]}

        def resolve(argument: Any) -> Any:
            if isinstance(argument, dict):
                return values[argument["node"]]
            return [resolve(a) for a in argument] if isinstance(argument, list) else argument

        for node in self.graph["nodes"]:
            keywords = {key: resolve(value) for key, value in node["kw"].items()}
            values[node["name"]] = OPERATORS[node["op"]](*map(resolve, node["args"]), **keywords)
        results = [resolve(result) for result in self.graph["results"]]
        return dict(zip(self.graph["outputs"], results, strict=True))


# ------------------------------------------------------------------ operators, as numpy has them


def _windows(x: np.ndarray, size: Any, stride: Any, padding: Any, fill: float) -> np.ndarray:
    """(N, C, H, W) to (N, C, H', W', h, w)."""
    import numpy as np

    height, width = padding
    pad = [(0, 0), (0, 0), (height, height), (width, width)]
    padded = np.pad(x, pad, constant_values=fill)
    view: Any = np.lib.stride_tricks.sliding_window_view
    views: np.ndarray = view(padded, tuple(size), axis=(2, 3))
    return views[:, :, :: stride[0], :: stride[1]]


def _conv2d(
    x: Any, w: Any, b: Any = None, stride: Any = (1, 1), padding: Any = (0, 0), *rest: Any
) -> Any:
    import numpy as np

    assert rest in ((), ([1, 1],), ([1, 1], 1)), "neither dilated nor grouped"
    views = _windows(x, w.shape[2:], stride, padding, 0.0)
    y = np.tensordot(views, w, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
    return y if b is None else y + b[:, None, None]


def _batch_norm(x: Any, w: Any, b: Any, mean: Any, var: Any, *rest: Any) -> Any:
    import numpy as np

    scale = w / np.sqrt(var + np.float32(rest[2]))
    return x * scale[:, None, None] + (b - mean * scale)[:, None, None]


def _layer_norm(x: Any, shape: Any, w: Any, b: Any, eps: float = 1e-5, *_: Any) -> Any:
    import numpy as np

    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(eps)) * w + b


def _gelu(x: Any, approximate: str = "none") -> Any:
    import numpy as np

    erf = np.vectorize(math.erf, otypes=[np.float32])
    return x * (1 + erf(x / np.float32(math.sqrt(2)))) / 2


def _softmax(x: Any, dim: int, *_: Any) -> Any:
    import numpy as np

    e = np.exp(x - x.max(dim, keepdims=True))
    return e / e.sum(dim, keepdims=True)


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> Any:
    import numpy as np

    return _softmax(q @ k.swapaxes(-1, -2) / np.float32(math.sqrt(q.shape[-1])), -1) @ v


def _relu(x: Any) -> Any:
    import numpy as np

    return np.maximum(x, 0)


def _linear(x: Any, w: Any, b: Any = None) -> Any:
    return x @ w.T if b is None else x @ w.T + b


def _max_pool(x: Any, size: Any, stride: Any, padding: Any = (0, 0), *_: Any) -> Any:
    import numpy as np

    return _windows(x, size, stride, padding, -np.inf).max((4, 5))


def _average_pool(x: Any, size: Any, stride: Any, *_: Any) -> Any:
    return _windows(x, size, stride, (0, 0), 0.0).mean((4, 5))


def _to(x: Any, *_: Any) -> Any:
    import numpy as np

    return x.astype(np.float32)


def _unbind(x: Any, dim: int = 0) -> Any:
    import numpy as np

    return list(np.moveaxis(x, dim, 0))


def _expand(x: Any, shape: Any, **_: Any) -> Any:
    import numpy as np

    return np.broadcast_to(x, [o if s == -1 else s for s, o in zip(shape, x.shape, strict=True)])


def _concatenate(xs: Any, dim: int = 0) -> Any:
    import numpy as np

    return np.concatenate(xs, dim)


def _slice(x: Any, dim: int, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _flatten(x: Any, first: int = 0, last: int = -1) -> Any:
    last = last % x.ndim
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "_assert_tensor_metadata": _same,
    "adaptive_avg_pool2d": lambda x, _: x.mean((2, 3), keepdims=True),
    "add": lambda a, b: a + b,
    "add_": lambda a, b: a + b,
    "avg_pool2d": _average_pool,
    "batch_norm": _batch_norm,
    "cat": _concatenate,
    "contiguous": _same,
    "conv2d": _conv2d,
    "dropout": _same,
    "expand": _expand,
    "flatten": _flatten,
    "gelu": _gelu,
    "getitem": lambda x, i: x[i],
    "layer_norm": _layer_norm,
    "linear": _linear,
    "max_pool2d": _max_pool,
    "mean": lambda x, dims, keep=False: x.mean(tuple(dims), keepdims=keep),
    "mul": lambda a, b: a * b,
    "permute": lambda x, dims: x.transpose(dims),
    "relu": _relu,
    "relu_": _relu,
    "reshape": lambda x, shape: x.reshape(shape),
    "scaled_dot_product_attention": _attention,
    "select": lambda x, dim, index: x.take(index, dim),
    "slice": _slice,
    "softmax": _softmax,
    "sym_size": lambda x, dim: x.shape[dim],
    "to": _to,
    "transpose": lambda x, a, b: x.swapaxes(a, b),
    "unbind": _unbind,
}
