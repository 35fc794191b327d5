"""A digest of what an ONNX file computes, however its parts are ordered and wherever they lie.

Saving a model again with onnx orders the fields of its messages anew, and moves weights into the
file or out of it. Metadata, names of producers and comments compute nothing. None of it changes
the digest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from timmx_core.errors import ArtifactError
from timmx_core.toolkit.content import ContentDigest
from timmx_onnx.metadata import (
    MAX_TEXT,
    MODEL_GRAPH,
    MODEL_PROPS,
    TENSOR_EXTERNAL,
    external_files,
    key_and_value,
)
from timmx_onnx.wire import BYTES, Field, WireError, WireReader

# Field numbers of onnx.proto
GRAPH_INITIALIZER, TENSOR_RAW_DATA, TENSOR_LOCATION = 5, 9, 14
PRODUCER_NAME, PRODUCER_VERSION, MODEL_DOMAIN, MODEL_VERSION, MODEL_DOC = 2, 3, 4, 5, 6
GRAPH_NAME, GRAPH_DOC, GRAPH_VALUE_INFO, GRAPH_PROPS = 2, 10, 13, 16
TENSOR_DOC, TENSOR_PROPS = 12, 16
OF_MODEL = {
    PRODUCER_NAME, PRODUCER_VERSION, MODEL_DOMAIN, MODEL_VERSION, MODEL_DOC, MODEL_PROPS,
}  # fmt: skip
OF_GRAPH = {GRAPH_NAME, GRAPH_DOC, GRAPH_VALUE_INFO, GRAPH_PROPS}
OF_TENSOR = {TENSOR_DOC, TENSOR_PROPS, TENSOR_RAW_DATA, TENSOR_LOCATION, TENSOR_EXTERNAL}
EXTERNAL = 1  # of data_location
MOST_NUMBERS = 64  # of fields in one message; onnx.proto has 25
MOST_READS = 4  # of each byte of a data file: tensors may share their data

Handler = Callable[[ContentDigest, Field], None]


def content_digest(path: Path) -> str:
    """sha256 of the graph, its weights wherever they lie, opsets and functions.

    :raises WireError: not a protobuf message, or one beyond the limits.
    :raises ArtifactError: a file of weights is missing, or lies elsewhere.
    """
    with path.open("rb") as file:
        return _Walk(WireReader(file, path.stat().st_size), path).model()


class _Walk:
    """One file, with how much was read of those beside it."""

    def __init__(self, reader: WireReader, path: Path) -> None:
        self.reader = reader
        self.path = path
        self.read: Counter[str] = Counter()

    def model(self) -> str:
        digest = ContentDigest()
        digest.add("model", self._message(0, self.reader.size, OF_MODEL, MODEL_GRAPH, self._graph))
        # Of tensors within nodes, which nobody but a hand puts there.
        for location in sorted(external_files(self.path) - set(self.read)):
            digest.add_file("data", self._beside(location))
        return digest.hexdigest()

    def _graph(self, digest: ContentDigest, field: Field) -> None:
        tensors = GRAPH_INITIALIZER, self._tensor
        digest.add("graph", self._message(field.offset, field.end, OF_GRAPH, *tensors))

    def _tensor(self, digest: ContentDigest, field: Field) -> None:
        """Name, type and shape; then the data, in this file or another."""
        data: Field | None = None
        external = False
        places: dict[bytes, bytes] = {}
        for part in self.reader.fields(field.offset, field.end):
            if part.number == TENSOR_RAW_DATA and part.kind == BYTES:
                data = part
            elif part.number == TENSOR_LOCATION:
                external = part.value == EXTERNAL
            elif part.number == TENSOR_EXTERNAL and part.kind == BYTES:
                key, value = key_and_value(self.reader, part)
                places[key] = b"" if value is None else self.reader.payload(value, MAX_TEXT)
        digest.add("tensor", self._message(field.offset, field.end, OF_TENSOR))
        if external:
            self._add_external(digest, places)
        elif data is not None:
            digest.add_range("data", self.reader.file, data.offset, data.length)

    def _add_external(self, digest: ContentDigest, places: dict[bytes, bytes]) -> None:
        location = places.get(b"location", b"").decode("utf-8", "surrogateescape")
        path = self._beside(location)
        if not path.is_file():
            raise ArtifactError(f"{location} is missing")
        size = path.stat().st_size
        start = _number(places.get(b"offset", b"0"))
        length = _number(places[b"length"]) if b"length" in places else size - start
        self.read[location] += max(length, 0)
        if start + length > size or self.read[location] > MOST_READS * size:
            raise ArtifactError(f"{location} does not hold the weights that the model names")
        digest.add_file("data", path, start, start + length)

    def _beside(self, location: str) -> Path:
        """:raises ArtifactError: not a place in the model's folder."""
        parts = PurePosixPath(location).parts
        if not parts or ".." in parts or location.startswith("/") or "\0" in location:
            raise ArtifactError(f"it keeps weights outside of its folder: {location[:80]!r}")
        return self.path.parent / location

    def _message(
        self,
        start: int,
        end: int,
        left_out: set[int],
        number: int = 0,
        handler: Handler | None = None,
    ) -> bytes:
        """Digests of the fields, those of one number in their order.

        :param handler: adds those of `number`, which are added as they are otherwise.
        """
        parts: dict[int, ContentDigest] = {}
        for field in self.reader.fields(start, end):
            if field.number in left_out:
                continue
            if len(parts) > MOST_NUMBERS:
                raise WireError(f"more than {MOST_NUMBERS} numbers of fields in a message")
            part = parts.setdefault(field.number, ContentDigest())
            if handler is not None and field.number == number and field.kind == BYTES:
                handler(part, field)
            else:
                length = field.end - field.key_offset
                part.add_range(str(field.number), self.reader.file, field.key_offset, length)
        texts = (f"{number} {parts[number].hexdigest()}\n" for number in sorted(parts))
        return "".join(texts).encode()


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ArtifactError("it says in no number where its weights lie")
    return int(text)
