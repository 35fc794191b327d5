"""How an ONNX model comes to lie on disk: one file, or a file and its weights beside it.

The weights are written one tensor at a time, straight from where torch keeps them: the usual way
through one `ModelProto` holds three copies of them at once. The bytes are those that protobuf
would have written, with the initializers at the end of the graph.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from timmx_core.errors import RequestError
from timmx_onnx.metadata import DATA_SUFFIX, MODEL_GRAPH
from timmx_onnx.wire import bytes_header

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Protobuf cannot read a message of 2 GiB; the manifest, appended later, needs room too.
LARGEST_FILE = (1 << 31) - (64 << 20)
# Smaller tensors are shapes and axes, which checkers and shape inference need to see.
LEAST_EXTERNAL = 1024
# Runtimes map the data file into memory; Windows maps at multiples of 64 KiB.
ALIGN_ABOVE, ALIGNMENT = 1 << 20, 1 << 16

GRAPH_INITIALIZER, TENSOR_RAW_DATA = 5, 9


@dataclass(frozen=True)
class Stored:
    """What was written."""

    size: int  # bytes of the model file alone
    data: Path | None  # the file of external weights
    skeleton: bytes  # the same model with all weights external, where they lie in either file


def save(model: ir.Model, path: Path, external: str) -> Stored:
    """Write `model` to `path`. Its large initializers are taken out of it on the way.

    :param external: "auto" (where one file cannot hold it), "always" (unless all of it is smaller
        than what is taken out) or "never".
    :raises RequestError: "never", and the model is beyond what one file can hold.
    :raises OSError: the disk is full, ...
    """
    import onnx_ir

    weights = list(_take_weights(model))
    proto = onnx_ir.to_proto(model)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    rest = proto.SerializeToString(deterministic=True)
    total = len(graph) + len(rest) + sum(w.nbytes + len(w.name or "") + 64 for w in weights)
    if external == "never" and total > LARGEST_FILE:
        raise RequestError(
            f"--external-data never: the model has {total / 1e9:.1f} GB, and a file in the "
            "protobuf format holds less than 2 GB",
            "leave out --external-data never",
        )
    data = None
    entries: list[_Entry]
    if weights and (external == "always" or (external == "auto" and total > LARGEST_FILE)):
        data = _write_data(weights, path)
        entries = [_External(w, data.path.name, o, n) for w, (o, n) in data.places]
    else:
        entries = [_Embedded(w) for w in weights]
    with path.open("wb") as file:
        _write_model(file, rest, graph, entries)
        size = file.tell()
    bones = io.BytesIO()
    _write_model(bones, rest, graph, [e.elsewhere(path.name) for e in entries])
    return Stored(size, data.path if data else None, bones.getvalue())


def _write_model(file: BinaryIO, rest: bytes, graph: bytes, entries: Sequence[_Entry]) -> None:
    file.write(rest)
    file.write(bytes_header(MODEL_GRAPH, len(graph) + sum(e.size for e in entries)))
    file.write(graph)
    for entry in entries:
        entry.write(file)


class _Entry:
    """One initializer as the graph message holds it."""

    def __init__(self, header: bytes, payload: int) -> None:
        self.header = bytes_header(GRAPH_INITIALIZER, len(header) + payload) + header
        self.size = len(self.header) + payload

    def write(self, file: BinaryIO) -> None:
        file.write(self.header)

    def elsewhere(self, file: str) -> _Entry:
        """The same initializer in another model, which finds the data in `file`."""
        return self


class _Embedded(_Entry):
    def __init__(self, tensor: ir.TensorProtocol) -> None:
        raw = bytes_header(TENSOR_RAW_DATA, tensor.nbytes)
        super().__init__(_tensor(tensor).SerializeToString() + raw, tensor.nbytes)
        self.tensor = tensor
        self.offset = 0

    def write(self, file: BinaryIO) -> None:
        super().write(file)
        self.offset = file.tell()
        file.write(self.tensor.tobytes())

    def elsewhere(self, file: str) -> _Entry:
        return _External(self.tensor, file, self.offset, self.tensor.nbytes)


class _External(_Entry):
    def __init__(self, tensor: ir.TensorProtocol, location: str, offset: int, length: int) -> None:
        import onnx

        proto = _tensor(tensor)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            proto.external_data.add(key=key, value=str(value))
        super().__init__(proto.SerializeToString(), 0)


@dataclass(frozen=True)
class _Data:
    path: Path
    places: list[tuple[Any, tuple[int, int]]]  # tensor, (offset, length)


def _write_data(weights: list[Any], primary: Path) -> _Data:
    """The weights in a file beside `primary`, named by the sha256 of its bytes."""
    partial = primary.with_name(primary.name + ".data.partial")
    digest = hashlib.sha256()
    places = []
    offset = 0
    with partial.open("wb") as file:
        for tensor in weights:
            padding = -offset % ALIGNMENT if tensor.nbytes >= ALIGN_ABOVE else -offset % 64
            for chunk in (bytes(padding), tensor.tobytes()):
                file.write(chunk)
                digest.update(chunk)
            places.append((tensor, (offset + padding, tensor.nbytes)))
            offset += padding + tensor.nbytes
    final = primary.with_name(f"{primary.stem}-{digest.hexdigest()[:8]}{DATA_SUFFIX}")
    partial.replace(final)
    return _Data(final, places)


def _take_weights(model: ir.Model) -> Iterator[Any]:
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= LEAST_EXTERNAL:
            del model.graph.initializers[name]
            tensor.name = name
            yield tensor


def _tensor(tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """Name, type and shape; no data."""
    import onnx

    return onnx.TensorProto(
        name=tensor.name, data_type=int(tensor.dtype), dims=tensor.shape.numpy()
    )
