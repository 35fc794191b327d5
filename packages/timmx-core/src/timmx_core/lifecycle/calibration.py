"""Images to calibrate a quantizer with, in the form of the file's input.

Images and uint8 arrays are pixels and go through the model's own evaluation transform. Float
arrays are taken as normalised already, and the user has to say so. Noise is used only where it
was asked for, and the manifest says so then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import TensorSpec
from timmx_core.errors import ModelError, RequestError, first_line
from timmx_core.models.inputs import pixels_to_input
from timmx_core.reading.regular import open_regular
from timmx_core.toolkit.batches import in_batches
from timmx_core.verification import probes

if TYPE_CHECKING:
    import numpy as np

    from timmx_core.models.build import BuiltModel
    from timmx_core.models.preprocessing import Preprocessing

BATCH = 8
TENSOR_SUFFIXES = (".pt", ".pth")
ARRAY_SUFFIXES = (".npy", ".npz", *TENSOR_SUFFIXES)
# Of .npy no more is read than is used; archives and torch's files are read as a whole.
MOST_BYTES = 4 << 30
ARRAY_MAGIC = b"\x93NUMPY"
FEW = 10  # samples whose ranges rarely fit other images
RANDOM_SEED = 1  # not the probes' own: a quantizer must not be fitted to its test


@dataclass(frozen=True)
class Calibration:
    """`pixels` (N, H, W, C) uint8, or `floats` (N, C, H, W) that are normalised already."""

    report: Mapping[str, Any]
    pixels: np.ndarray | None = None
    floats: np.ndarray | None = None

    @classmethod
    def of(cls, shared: Mapping[str, Any], built: BuiltModel) -> Calibration:
        """What the request names.

        :raises RequestError: nothing there, of another shape, or floats that nobody vouched for.
        :raises ModelError: an array file that wants to run code, or is broken.
        """
        count = shared["calibration_samples"]
        chans, height, width = built.preprocessing.input_size
        if shared["random_calibration"]:
            recipe = probes.Recipe(height, width, chans, count, RANDOM_SEED)
            if recipe.values > probes.MOST_VALUES:
                most = probes.most_batch(chans, height, width)
                raise RequestError(
                    f"--calibration-samples {count:,} is more than can be held: at most {most:,} "
                    f"images of {chans}x{height}x{width}"
                )
            return cls.from_pixels(probes.make(recipe), "random")
        path = Path(shared["calibration_data"])
        check_data(path, count, preprocessed=shared["calibration_preprocessed"])
        if path.is_dir():
            return cls.from_pixels(_images(path, built.preprocessing, count), "images")
        array = _read_array(path)[:count]
        return cls._from_array(array, shared["calibration_preprocessed"], built.preprocessing)

    @classmethod
    def from_pixels(cls, pixels: np.ndarray, kind: str) -> Calibration:
        """From uint8 (N, H, W, C)."""
        return cls(_report(pixels, kind), pixels=pixels)

    @classmethod
    def _from_array(
        cls, array: np.ndarray, preprocessed: bool, preprocessing: Preprocessing
    ) -> Calibration:
        import numpy as np

        chans, height, width = preprocessing.input_size
        if array.dtype == np.uint8:
            if preprocessed:
                raise RequestError(
                    "--calibration-preprocessed is about floats, and these are uint8"
                )
            if array.ndim == 4 and array.shape[1] == chans and array.shape[3] != chans:
                array = array.transpose(0, 2, 3, 1)
            _check_shape(array, (height, width, chans), "N, H, W, C")
            return cls.from_pixels(np.ascontiguousarray(array), "uint8 array")
        if not np.issubdtype(array.dtype, np.floating):
            raise RequestError(f"calibration arrays are uint8 or float, not {array.dtype}")
        if not preprocessed:
            raise RequestError(
                "a float calibration array must be normalised as the model wants it",
                "say so with --calibration-preprocessed, or give images or uint8 pixels",
            )
        _check_shape(array, (chans, height, width), "N, C, H, W")
        if not np.isfinite(array).all():
            raise RequestError("the calibration array holds NaN or infinite values")
        floats = np.ascontiguousarray(array, np.float32)
        return cls(_report(floats, "float array"), floats=floats)

    def batches(
        self, spec: TensorSpec, size: int | None = None
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Batches in the form of an image port.

        :param size: of every batch; None: up to `BATCH`.
        :raises RequestError: floats that are normalised, for a file that normalises by itself.
        """
        whole = self.pixels if self.pixels is not None else self.floats
        assert whole is not None
        if self.floats is not None and not spec.mean:
            raise RequestError(
                "normalised calibration floats do not fit a file that normalises by itself",
                "give images or uint8 pixels",
            )
        parts = _pieces(whole) if size is None else in_batches(whole, size)
        for part in parts:
            if self.pixels is not None:
                yield {spec.name: pixels_to_input(part, spec)}
            else:
                yield {spec.name: part if spec.layout == "NCHW" else part.transpose(0, 2, 3, 1)}


def _pieces(whole: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(whole), BATCH):
        yield whole[start : start + BATCH]


def _report(array: np.ndarray, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "samples": len(array),
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
    }


def _images(folder: Path, preprocessing: Preprocessing, count: int) -> np.ndarray:
    from timmx_core.lifecycle.reference import eval_crop

    chans, height, width = preprocessing.input_size
    crop = eval_crop(preprocessing)
    return probes.read_images(folder, height, width, chans, most=count, crop=crop)


def check_data(path: Path, count: int, *, preprocessed: bool) -> None:
    """What can be found wrong with `--calibration-data` before torch loads.

    :param count: as many of its images would be read.
    :param preprocessed: somebody says that it holds normalised floats.
    :raises RequestError: it is not there, of no known kind, or holds no images.
    """
    if path.is_dir():
        if preprocessed:
            raise RequestError(
                f"--calibration-preprocessed is about an array of floats, and {path} is a folder",
                "leave it out: images go through the model's own transform",
            )
        probes.check_images(path, count)
    elif not path.is_file():
        raise RequestError(f"calibration data {path} does not exist")
    elif path.suffix not in ARRAY_SUFFIXES:
        raise RequestError(f"calibration data is a folder, .npy, .npz or .pt, not {path.name}")


def warnings(report: Mapping[str, Any] | None) -> Iterator[str]:
    """What is doubtful about what was calibrated with, a line each.

    :param report: of a `Calibration`; None where nothing was calibrated.
    """
    if report is None or report["kind"] == "random":
        return  # which was said before the model was built
    if report["samples"] < FEW:
        yield (
            f"calibrated on {samples_text(report)}: ranges of so few rarely fit others; give a "
            "hundred or so"
        )


def samples_text(report: Mapping[str, Any]) -> str:
    """As in: 10 images; 1 image; 128 synthetic images; 128 images of an array."""
    count = report["samples"]
    noun = "image" if count == 1 else "images"
    kind = report["kind"]
    if kind == "random":
        return f"{count} synthetic {noun}"
    return f"{count} {noun}" if kind == "images" else f"{count} {noun} of an array"


def _check_shape(array: np.ndarray, wanted: tuple[int, ...], layout: str) -> None:
    if array.ndim != 4 or array.shape[1:] != wanted or len(array) == 0:
        raise RequestError(
            f"the calibration array has shape {array.shape}, and the model wants ({layout}) with "
            f"{', '.join(map(str, wanted))}"
        )


def _read_array(path: Path) -> np.ndarray:
    """An array from .npy, .npz (its first) or .pt, without running anything of the file."""
    import numpy as np

    if path.suffix in TENSOR_SUFFIXES:
        _check_bytes(path, path.stat().st_size)
        return _read_tensor(path)
    try:
        with open_regular(path) as file:
            if file.read(len(ARRAY_MAGIC)) == ARRAY_MAGIC:
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            file.seek(0)
            return _first_array(np.load(file, allow_pickle=False), path)
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001 (numpy and zipfile stumble in many ways)
        if "pickle" in str(error) or "Python objects" in str(error):
            raise ModelError(
                f"refused {path}: it holds pickled objects, which can run code"
            ) from None
        raise ModelError(f"cannot read {path}: {first_line(error)}") from None


def _first_array(loaded: Any, path: Path) -> np.ndarray:
    """The first of an archive's."""
    import numpy as np

    with loaded:
        for name in loaded:
            _check_bytes(path, max(info.file_size for info in loaded.zip.infolist()))
            return np.asarray(loaded[name])
    raise RequestError(f"{path} holds no array")


def _check_bytes(path: Path, size: int) -> None:
    """:raises RequestError: it is too much to be read for some samples of it."""
    if size > MOST_BYTES:
        raise RequestError(
            f"{path} holds {size / (1 << 30):.1f} GiB, and at most {MOST_BYTES >> 30} are read",
            "save the array as .npy, of which no more is read than is used",
        )


def _read_tensor(path: Path) -> np.ndarray:
    import torch

    from timmx_core.models.weights.checkpoints import read_torch

    content = read_torch(path)
    if not isinstance(content, torch.Tensor):
        raise RequestError(f"{path} holds no tensor", "save one tensor with torch.save")
    result: np.ndarray = content.detach().cpu().numpy()
    return result
