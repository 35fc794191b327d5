"""What timmx reads of and adds to an ONNX file without loading it.

A `ModelProto` ends where the file ends, and repeated fields may stand anywhere: a manifest is
appended as one more `metadata_props` entry, and nothing else of the file is touched or read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from timmx_onnx.wire import BYTES, Field, WireError, WireReader, bytes_field

KEY = "timmx"
DATA_SUFFIX = ".onnx.data"  # of a file of external weights
MAX_MANIFEST = 64 << 20
MAX_TEXT = 1 << 16  # a key, a domain, a file name
MAX_DEPTH = 32  # of graphs within graphs

# Field numbers of onnx.proto
MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET, MODEL_PROPS = 1, 7, 8, 14
OPSET_DOMAIN, OPSET_VERSION = 1, 2
ENTRY_KEY, ENTRY_VALUE = 1, 2
TENSOR_EXTERNAL = 13
# Messages in which a tensor may stand, and by which fields: message -> field -> message
NESTED: dict[str, dict[int, str]] = {
    "model": {MODEL_GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass(frozen=True)
class Header:
    """The top level of a model file."""

    manifest: bytes | None
    manifest_offset: int | None  # of the field that holds it
    manifest_last: bool  # nothing stands behind it
    opset: int | None  # of the default domain
    has_graph: bool


def read_header(path: Path) -> Header:
    """Read opset and manifest, skipping the graph.

    :raises WireError: not a protobuf message, or one beyond the limits.
    """
    with path.open("rb") as file:
        reader = WireReader(file, path.stat().st_size)
        manifest: bytes | None = None
        found: Field | None = None
        opset: int | None = None
        has_graph = False
        for field in reader.fields():
            if field.number == MODEL_GRAPH and field.kind == BYTES:
                has_graph = True
            elif field.number == MODEL_OPSET and field.kind == BYTES:
                domain, version = _opset(reader, field)
                opset = version if domain in (b"", b"ai.onnx") else opset
            elif field.number == MODEL_PROPS and field.kind == BYTES:
                value = _entry_value(reader, field)
                if value is not None:
                    manifest, found = reader.payload(value, MAX_MANIFEST), field
        return Header(
            manifest=manifest,
            manifest_offset=found.key_offset if found else None,
            manifest_last=found is not None and found.end == reader.size,
            opset=opset,
            has_graph=has_graph,
        )


def append_manifest(path: Path, manifest: bytes) -> None:
    """Put `manifest` at the end of the file, in place of one that stands there.

    :raises WireError: the file is not a model, or another tool has written behind its manifest.
    """
    header = read_header(path)
    if header.manifest_offset is not None and not header.manifest_last:
        raise WireError("the file holds a manifest already, and other data behind it")
    entry = bytes_field(ENTRY_KEY, KEY.encode()) + bytes_field(ENTRY_VALUE, manifest)
    with path.open("r+b") as file:
        if header.manifest_offset is not None:
            file.truncate(header.manifest_offset)
        file.seek(0, 2)
        file.write(bytes_field(MODEL_PROPS, entry))


def external_files(path: Path) -> frozenset[str]:
    """The locations of all tensors that are kept in other files, as the model spells them.

    :raises WireError: not a protobuf message, or one beyond the limits.
    """
    with path.open("rb") as file:
        reader = WireReader(file, path.stat().st_size)
        return frozenset(_locations(reader, "model", 0, reader.size, 0))


def _locations(reader: WireReader, message: str, start: int, end: int, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise WireError("messages nested too deeply")
    if message == "tensor":
        yield from _tensor_locations(reader, start, end)
        return
    nested = NESTED[message]
    for field in reader.fields(start, end):
        if field.number in nested and field.kind == BYTES:
            inner = nested[field.number]
            yield from _locations(reader, inner, field.offset, field.end, depth + 1)


def _tensor_locations(reader: WireReader, start: int, end: int) -> Iterator[str]:
    for field in reader.fields(start, end):
        if field.number == TENSOR_EXTERNAL and field.kind == BYTES:
            key, value = key_and_value(reader, field)
            if key == b"location" and value is not None:
                yield reader.payload(value, MAX_TEXT).decode("utf-8", "surrogateescape")


def _opset(reader: WireReader, field: Field) -> tuple[bytes, int]:
    domain, version = b"", 0
    for part in reader.fields(field.offset, field.end):
        if part.number == OPSET_DOMAIN:
            domain = reader.payload(part, MAX_TEXT)
        elif part.number == OPSET_VERSION:
            version = part.value
    return domain, version


def _entry_value(reader: WireReader, field: Field) -> Field | None:
    """The field that holds the manifest, where this metadata entry is ours."""
    key, value = key_and_value(reader, field)
    return value if key == KEY.encode() else None


def key_and_value(reader: WireReader, field: Field) -> tuple[bytes, Field | None]:
    """Of an entry as `metadata_props` and `external_data` have them."""
    key, value = b"", None
    for part in reader.fields(field.offset, field.end):
        if part.number == ENTRY_KEY and part.length <= MAX_TEXT:
            key = reader.payload(part, MAX_TEXT)
        elif part.number == ENTRY_VALUE:
            value = part
    return key, value
