"""An `.mlpackage` folder or `.mlmodel` file: where its parts are, and what it says of itself.

Reading the description touches neither torch nor weights, so it is cheap on any file.
"""

from __future__ import annotations

import json
import mmap
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from timmx_coreml.mil import wire
from timmx_coreml.mil.errors import ProgramError
from timmx_coreml.mil.wire import Budget, Fields, blob, blobs, decode, integer, text

MANIFEST = "Manifest.json"
DATA = "Data"
_MAX_MANIFEST = 1 << 20
_ML_PROGRAM = 502
_NEURAL_NETWORK = (303, 403, 500)
_COLOR_SPACES = {10: "GRAY", 20: "RGB", 30: "BGR", 40: "GRAY"}


@dataclass(frozen=True)
class Feature:
    """A port of the model as Core ML shows it.

    `sizes`: for each dimension (least, greatest); greatest None: open. `shapes`: the only shapes
    taken, where they are listed. For images both are of (height, width).
    """

    name: str
    kind: str  # "image", "array", "dictionary", "string", "int64", "double", "other"
    description: str = ""
    shape: tuple[int, ...] = ()
    color: str = ""
    sizes: tuple[tuple[int, int | None], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Description:
    """What `Model.description` says."""

    version: int
    kind: str  # "mlprogram", "neuralnetwork", "other"
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    label_output: str
    probabilities_output: str
    metadata: Mapping[str, str]  # shortDescription, author, license, versionString
    user: Mapping[str, str]


class Package:
    """The files of a model, found without leaving its folder.

    :raises ProgramError: where a part is missing or lies outside.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = _model_file(path)
        self._root = path.resolve() if path.is_dir() else None
        try:
            with self.model.open("rb") as file:
                empty = self.model.stat().st_size == 0
                self._data = memoryview(
                    b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                )
        except OSError as error:
            raise ProgramError(f"{self.model.name} cannot be read: {error.strerror}") from error
        self.budget = Budget()
        self._fields = decode(self._data, self.budget)

    def program(self) -> memoryview | None:
        """The undecoded ML program; None for a model of another kind."""
        return blob(self._fields, _ML_PROGRAM)

    def weights(self, name: str) -> Path:
        """The file that a constant names as `@model_path/weights/weight.bin`."""
        relative = name.removeprefix("@model_path/")
        path = (self.model.parent / relative).resolve()
        if self._root is None or not path.is_relative_to(self._root):
            raise ProgramError(f"the program reads {name}, which is outside the package")
        return path

    def parts(self) -> Fields:
        """The undecoded fields of the specification."""
        return self._fields

    def others(self) -> list[Path]:
        """The files beside the specification: its weights. The Finder's own are left out."""
        if self._root is None:
            return []
        found = sorted(self.model.parent.rglob("*"))
        return [f for f in found if f.is_file() and f != self.model and not f.name.startswith(".")]

    def description(self) -> Description:
        """Ports and metadata."""
        fields = decode(blob(self._fields, 2) or memoryview(b""), self.budget)
        metadata = decode(blob(fields, 100) or memoryview(b""), self.budget)
        user = {}
        for entry in blobs(metadata, 100):
            pair = decode(entry, self.budget)
            user[text(blob(pair, 1))] = text(blob(pair, 2))
        return Description(
            version=integer(self._fields, 1),
            kind=self._kind(),
            inputs=tuple(self._feature(item) for item in blobs(fields, 1)),
            outputs=tuple(self._feature(item) for item in blobs(fields, 10)),
            label_output=text(blob(fields, 11)),
            probabilities_output=text(blob(fields, 12)),
            metadata={
                key: text(blob(metadata, number))
                for number, key in (
                    (1, "shortDescription"),
                    (2, "versionString"),
                    (3, "author"),
                    (4, "license"),
                )
            },
            user=user,
        )

    def _kind(self) -> str:
        if _ML_PROGRAM in self._fields:
            return "mlprogram"
        return "neuralnetwork" if any(n in self._fields for n in _NEURAL_NETWORK) else "other"

    def _sub(self, fields: Fields, number: int) -> Fields:
        return decode(blob(fields, number) or memoryview(b""), self.budget)

    def _feature(self, data: memoryview) -> Feature:
        fields = decode(data, self.budget)
        name, description = text(blob(fields, 1)), text(blob(fields, 2))
        kind = self._sub(fields, 3)
        if 4 in kind:
            return self._image(name, description, self._sub(kind, 4))
        if 5 in kind:
            return self._array(name, description, self._sub(kind, 5))
        simple = {1: "int64", 2: "double", 3: "string", 6: "dictionary"}
        found = next((word for number, word in simple.items() if number in kind), "other")
        return Feature(name, found, description)

    def _image(self, name: str, description: str, image: Fields) -> Feature:
        shape = (integer(image, 2), integer(image, 1))
        listed = [decode(s, self.budget) for s in blobs(self._sub(image, 21), 1)]
        ranges = self._sub(image, 31)
        sizes = tuple(self._range(self._sub(ranges, number)) for number in (2, 1))
        return Feature(
            name,
            "image",
            description,
            shape,
            _COLOR_SPACES.get(integer(image, 3), "other"),
            sizes if 31 in image else (),
            tuple((integer(s, 2), integer(s, 1)) for s in listed),
        )

    def _array(self, name: str, description: str, array: Fields) -> Feature:
        listed = [decode(s, self.budget) for s in blobs(self._sub(array, 21), 1)]
        ranges = blobs(self._sub(array, 31), 1)
        return Feature(
            name,
            "array",
            description,
            self._ints(array),
            "",
            tuple(self._range(decode(r, self.budget)) for r in ranges),
            tuple(self._ints(s) for s in listed),
        )

    def _ints(self, fields: Fields) -> tuple[int, ...]:
        return tuple(wire.integers(fields, 1, self.budget))

    @staticmethod
    def _range(fields: Fields) -> tuple[int, int | None]:
        upper = integer(fields, 2)
        return integer(fields, 1), None if upper < 0 else upper


def _model_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ProgramError(f"{path} does not exist")
    manifest = path / MANIFEST
    try:
        status = manifest.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for for ever
            raise ProgramError(f"{MANIFEST} of {path.name} is no file")
        if status.st_size > _MAX_MANIFEST:
            raise ProgramError(f"{MANIFEST} is larger than any real one")
        content = json.loads(manifest.read_text("utf-8"))
        item = content["itemInfoEntries"][content["rootModelIdentifier"]]
        relative = str(item["path"])
    except FileNotFoundError:
        raise ProgramError(f"{path.name} is no Core ML package: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProgramError(f"{MANIFEST} of {path.name} is damaged") from error
    model = (path / DATA / relative).resolve()
    if not model.is_relative_to(path.resolve()):
        raise ProgramError(f"{MANIFEST} of {path.name} names a file outside the package")
    if not model.is_file():
        raise ProgramError(f"{path.name} lacks {DATA}/{relative}")
    return model
