"""A digest of what a Core ML file computes, without what is said of it.

coremltools writes the maps of a specification in another order each time, so that saving a model
again with an author and a licence changes many of its bytes. Neither that nor the random
identifiers of `Manifest.json` change the digest.
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

from timmx_core.toolkit.content import ContentDigest
from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.package import Package
from timmx_coreml.mil.wire import Budget, Fields, blob, decode

MAP_KEY, MAP_VALUE = 1, 2
MAX_DEPTH = 32  # of blocks within blocks
# Messages of Model.proto and MIL.proto that have maps, or hold others that do:
# message -> field -> what it is (None: bytes whose order is their own), and whether it is a map.
NESTED: dict[str, dict[int, tuple[str | None, bool]]] = {
    "model": {2: ("description", False), 502: ("program", False)},
    "description": {1: ("feature", False), 10: ("feature", False)},
    "feature": {},
    "program": {2: ("function", True), 4: (None, True)},
    "function": {3: ("block", True), 4: (None, True)},
    "block": {3: ("operation", False), 4: (None, True)},
    "operation": {2: (None, True), 4: ("block", False), 5: (None, True)},
}
# Of a description its metadata, of a feature its comment.
LEFT_OUT = {"description": {100}, "feature": {2}}


def content_digest(path: Path) -> str:
    """sha256 of model and weights.

    :raises ArtifactError: they cannot be read.
    """
    package = Package(path)
    digest = ContentDigest()
    digest.add("model", _of(package.parts(), "model", package.budget, 0))
    for file in package.others():
        digest.add_file(file.relative_to(package.model.parent).as_posix(), file)
    return digest.hexdigest()


def _message(data: memoryview, kind: str | None, budget: Budget, depth: int) -> memoryview | bytes:
    return data if kind is None else _of(decode(data, budget), kind, budget, depth + 1)


def _of(fields: Fields, kind: str, budget: Budget, depth: int) -> bytes:
    """A digest over the fields of a message in the order of their numbers, maps by their keys."""
    if depth > MAX_DEPTH:
        raise ProgramError("the model description has blocks nested too deeply")
    digest = ContentDigest()
    for number in sorted(fields.keys() - LEFT_OUT.get(kind, set())):
        inner, is_map = NESTED[kind].get(number, (None, False))
        values = [str(v).encode() if isinstance(v, int) else v for v in fields[number]]
        if is_map:
            entries = sorted((_entry(memoryview(v), budget) for v in values), key=itemgetter(0))
            for key, content in entries:
                digest.add(f"{number} {key.hex()}", _message(content, inner, budget, depth))
        else:
            for value in values:
                digest.add(str(number), _message(memoryview(value), inner, budget, depth))
    return digest.hexdigest().encode()


def _entry(data: memoryview, budget: Budget) -> tuple[bytes, memoryview]:
    """Key and value of a map's entry."""
    fields = decode(data, budget)
    return bytes(blob(fields, MAP_KEY) or b""), blob(fields, MAP_VALUE) or memoryview(b"")
