"""TFLite metadata: what the platform's own tools read of an image classifier.

A flatbuffer of its own schema (tensorflow/tflite-support, `metadata_schema.fbs`, 1.1.0), of which
these few tables are written here. Android's and iOS's task libraries take from it how to normalise
pixels, and the name of the file with the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers

from timmx_core.backend import TensorSpec
from timmx_litert.container import LABELS, MANIFEST

NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
VERSION = "1.0.0"  # of the parser that understands it

FILE_DESCRIPTION, FILE_AXIS_LABELS = 1, 2
COLOR_RGB, COLOR_GRAY = 1, 2
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2
NORMALIZATION_OPTIONS = 1
# Field numbers by table.
MODEL_NAME, MODEL_SUBGRAPHS, MODEL_FILES, MODEL_PARSER = 0, 3, 6, 7
SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = 2, 3
TENSOR_NAME, TENSOR_DESCRIPTION, TENSOR_CONTENT = 0, 1, 3
TENSOR_UNITS, TENSOR_STATS, TENSOR_FILES = 4, 5, 6


def build(image: TensorSpec, outputs: Sequence[TensorSpec], labels: Any) -> bytes:
    """The metadata of a file with one image input.

    :param labels: whether there are any; they lie in the file `LABELS`.
    """
    writer = _Writer()
    inside = writer.vector([_input(writer, image)])
    outside = writer.vector([_output(writer, spec, bool(labels)) for spec in outputs])
    graph = writer.table({SUBGRAPH_INPUTS: inside, SUBGRAPH_OUTPUTS: outside})
    manifest = writer.file(MANIFEST, "how the file was made", FILE_DESCRIPTION)
    root = writer.table(
        {
            MODEL_NAME: writer.text("timmx"),
            MODEL_SUBGRAPHS: writer.vector([graph]),
            MODEL_FILES: writer.vector([manifest]),
            MODEL_PARSER: writer.text(VERSION),
        }
    )
    return writer.finish(root)


def _input(writer: _Writer, spec: TensorSpec) -> int:
    fields = {
        TENSOR_NAME: writer.text(spec.name),
        TENSOR_DESCRIPTION: writer.text(f"image, {spec.layout}"),
    }
    if spec.layout == "NHWC" and spec.color in ("RGB", "GRAY"):
        color = COLOR_RGB if spec.color == "RGB" else COLOR_GRAY
        properties = writer.table({}, bytes_={0: color})
        fields[TENSOR_CONTENT] = writer.table({1: properties}, bytes_={0: IMAGE_PROPERTIES})
    else:  # the tools know images with channels last only
        properties = writer.table({})
        fields[TENSOR_CONTENT] = writer.table({1: properties}, bytes_={0: FEATURE_PROPERTIES})
    mean, std = pixel_normalization(spec)
    options = writer.table({0: writer.floats(mean), 1: writer.floats(std)})
    unit = writer.table({1: options}, bytes_={0: NORMALIZATION_OPTIONS})
    fields[TENSOR_UNITS] = writer.vector([unit])
    if spec.quantization is None:
        high, low = (
            [(end - m) / s for m, s in zip(mean, std, strict=True)] for end in (255.0, 0.0)
        )
        fields[TENSOR_STATS] = writer.table({0: writer.floats(high), 1: writer.floats(low)})
    return writer.table(fields)


def pixel_normalization(spec: TensorSpec) -> tuple[list[float], list[float]]:
    """Mean and std in pixels of 0..255, as `(pixel - mean) / std` gives what the port takes."""
    full = 255.0 if spec.range == (0.0, 1.0) else 1.0
    mean = spec.mean or (0.0,)
    std = spec.std or (1.0,)
    return [m * full for m in mean], [s * full for s in std]


def _output(writer: _Writer, spec: TensorSpec, labelled: bool) -> int:
    properties = writer.table({})
    fields = {
        TENSOR_NAME: writer.text(spec.name),
        TENSOR_DESCRIPTION: writer.text(spec.role),
        TENSOR_CONTENT: writer.table({1: properties}, bytes_={0: FEATURE_PROPERTIES}),
    }
    if labelled and spec.role in ("logits", "probabilities"):
        file = writer.file(LABELS, "names of the classes", FILE_AXIS_LABELS)
        fields[TENSOR_FILES] = writer.vector([file])
    return writer.table(fields)


class _Writer:
    """A flatbuffer, written from its leaves to its root; an int is the offset of something."""

    def __init__(self) -> None:
        self.builder: Any = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return self._int(self.builder.CreateString(value))

    def vector(self, offsets: Sequence[int]) -> int:
        return self._list(offsets, self.builder.PrependUOffsetTRelative)

    def floats(self, values: Sequence[float]) -> int:
        return self._list(values, self.builder.PrependFloat32)

    def table(self, fields: dict[int, int], bytes_: dict[int, int] | None = None) -> int:
        """A table whose fields are offsets, and bytes."""
        small = bytes_ or {}
        self.builder.StartObject(max((*fields, *small), default=-1) + 1)
        for number, offset in fields.items():
            self.builder.PrependUOffsetTRelativeSlot(number, offset, 0)
        for number, value in small.items():
            self.builder.PrependUint8Slot(number, value, 0)
        return self._int(self.builder.EndObject())

    def file(self, name: str, what: str, kind: int) -> int:
        """An `AssociatedFile`."""
        return self.table({0: self.text(name), 1: self.text(what)}, bytes_={2: kind})

    def finish(self, root: int) -> bytes:
        self.builder.Finish(root, IDENTIFIER)
        return bytes(self.builder.Output())

    def _list(self, values: Sequence[Any], prepend: Callable[[Any], None]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            prepend(value)
        return self._int(self.builder.EndVector())

    def _int(self, offset: Any) -> int:
        return int(offset)
