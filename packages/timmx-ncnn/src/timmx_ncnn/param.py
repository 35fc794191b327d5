"""The `.param` file: a line for each layer, and behind the last one the manifest.

7767517                                    always
3 3                                        numbers of layers and of blobs
Input in0 0 1 in0                          type, name, how many blobs in and out, and which
Convolution conv 1 1 in0 1 0=8 1=3         ... and numbers
InnerProduct fc 1 1 1 out0 0=10
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from timmx_core.errors import ArtifactError
from timmx_core.toolkit.content import ContentDigest

MAGIC = b"7767517"
MOST_BYTES = 256 << 20
MOST_LAYERS = 1_000_000
MARK = b"#timmx "
KNOWN = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*")  # of ncnn's own types


class BadParam(ValueError):
    """Not a text file of layers, as ncnn reads it."""


@dataclass(frozen=True)
class Layer:
    """One line."""

    type: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    rest: tuple[str, ...]  # its numbers, as they stand

    def line(self) -> str:
        """As ncnn writes it."""
        counts = (str(len(self.bottoms)), str(len(self.tops)))
        words = (*counts, *self.bottoms, *self.tops, *self.rest)
        return f"{self.type:<24} {self.name:<24} " + " ".join(words)


@dataclass(frozen=True)
class Network:
    """All of them."""

    layers: tuple[Layer, ...]

    @property
    def inputs(self) -> list[str]:
        """Blobs that are given."""
        return [top for layer in self.layers if layer.type == "Input" for top in layer.tops]

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer takes."""
        taken = {bottom for layer in self.layers for bottom in layer.bottoms}
        tops = (top for layer in self.layers if layer.type != "Input" for top in layer.tops)
        return [top for top in tops if top not in taken]

    @property
    def unknown(self) -> list[str]:
        """What pnnx left as it was in PyTorch, since ncnn has no layer for it."""
        return [
            kind
            for kind in dict.fromkeys(layer.type for layer in self.layers)
            if not KNOWN.fullmatch(kind)
        ]

    def renamed(self, names: Mapping[str, str]) -> Network:
        """With other names for some blobs."""

        def of(blobs: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names.get(blob, blob) for blob in blobs)

        return Network(
            tuple(
                replace(layer, bottoms=of(layer.bottoms), tops=of(layer.tops))
                for layer in self.layers
            )
        )

    def text(self) -> str:
        """The file."""
        blobs = {blob for layer in self.layers for blob in layer.tops}
        lines = [MAGIC.decode(), f"{len(self.layers)} {len(blobs)}"]
        return "\n".join((*lines, *(layer.line() for layer in self.layers), ""))


def read_network(path: Path) -> Network:
    """The layers of a file.

    :raises BadParam: it is not one of ncnn's, or is cut off.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES)
    return parse(data)


def parse(data: bytes) -> Network:
    """The layers in a file's bytes.

    :raises BadParam: these are none.
    """
    try:
        lines = iter(data.decode("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise BadParam("it is no text") from error
    if next(lines, "").strip() != MAGIC.decode():
        raise BadParam(f"it does not start with {MAGIC.decode()}")
    try:
        count = int(next(lines, "").split()[0])
        if not 0 < count <= MOST_LAYERS:
            raise BadParam(f"it states {count} layers")
        return Network(tuple(_layers(lines, count)))
    except (IndexError, ValueError, StopIteration) as error:
        raise BadParam(f"its layers cannot be read: {error}") from error


def _layers(lines: Iterator[str], count: int) -> Iterator[Layer]:
    for number in range(count):
        words = next(lines, "").split()
        if len(words) < 4:
            raise BadParam(f"it has {number} of {count} layers")
        ins, outs = int(words[2]), int(words[3])
        if min(ins, outs) < 0 or len(words) < 4 + ins + outs:
            raise BadParam(f"the line of layer {words[1]} is cut off")
        middle, end = 4 + ins, 4 + ins + outs
        blobs = tuple(words[4:middle]), tuple(words[middle:end])
        yield Layer(words[0], words[1], *blobs, tuple(words[end:]))


def add_manifest(path: Path, manifest: bytes) -> None:
    """Append it: ncnn reads as many lines as the second one states, and no more."""
    with path.open("ab") as file:
        file.write(MARK + base64.b64encode(manifest) + b"\n")


def read_manifest(path: Path, *, ours: bool) -> bytes | None:
    """The manifest of a file; None where it is none of ncnn's, or has none.

    :param ours: it has the suffix of the format, so that what is broken is told.
    :raises ArtifactError: it is one of ncnn's and broken.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + 1)
        if head.rstrip() != MAGIC:
            return None
        data = head + file.read(MOST_BYTES)
    try:
        parse(data)
        return _manifest(data)
    except (BadParam, binascii.Error) as error:
        if not ours:
            return None
        raise ArtifactError(f"{path.name} is not a whole ncnn network: {error}") from error


def content_digest(path: Path) -> str:
    """sha256 of the layers and of the weights, without the line of the manifest.

    :raises ArtifactError: one of the two files is missing.
    """
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES)
    start = data.rfind(b"\n" + MARK)
    digest = ContentDigest()
    digest.add("param", data if start < 0 else data[: start + 1])
    digest.add_file("bin", path.with_suffix(".bin"))
    return digest.hexdigest()


def _manifest(data: bytes) -> bytes | None:
    start = data.rfind(b"\n" + MARK)
    if start < 0:
        return None
    line = data[start + 1 + len(MARK) :]
    if not line.endswith(b"\n"):
        raise BadParam("its last line is cut off")
    return base64.b64decode(line.strip(), validate=True)
