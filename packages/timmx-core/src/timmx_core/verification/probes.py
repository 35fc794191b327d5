"""The images that a file is verified with, made from a seed by integer arithmetic alone.

numpy does not promise that its random streams, or the last bit of its sines, stay the same, and
a probe must be the same pixel for pixel on the machine where the file is checked years later. So
the generator is splitmix64 (Steele, Lea, Flood 2014) and every image is made of shifts, sums and
products of integers. `digest` says whether it worked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.errors import RequestError
from timmx_core.reading.regular import open_regular

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

RECIPE = "timmx-probes-1"
COUNT = 8
# A manifest that asks for more is hostile or broken: 8 images of 4096 x 4096 x 3 are 400 MB.
MOST_VALUES = 8 * 4096 * 4096 * 4
# A thousand images say as much as all of ImageNet, and every one of them is held as float32, here
# and in the process that runs the file.
MOST_IMAGES = 1000
MOST_IMAGE_BYTES = 2 << 30
MOST_RATIO = 100  # of an image's sides: the short one is enlarged to the model's
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Recipe:
    """How to make the probes again. All of it stands in the manifest."""

    height: int
    width: int
    channels: int
    count: int = COUNT
    seed: int = 0
    name: str = RECIPE

    @property
    def values(self) -> int:
        """Bytes that the probes take."""
        return self.count * self.height * self.width * self.channels

    def to_json(self) -> dict[str, Any]:
        """For the manifest; the digest of the pixels is added there."""
        return {
            "recipe": self.name,
            "seed": self.seed,
            "count": self.count,
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
        }


def digest(pixels: np.ndarray) -> str:
    """sha256 of the pixels' bytes."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def make(recipe: Recipe) -> np.ndarray:
    """The probes: uint8 (count, height, width, channels).

    Smooth colour fields, 1/f noise, discs and edges, checkers, and flat colour, in turn; every
    channel differs from the others, so that an exchange of channels shows.
    """
    import numpy as np

    kinds = (_smooth, _noise, _discs, _checkers, _noise, _smooth, _discs, _flat)
    images = [
        kinds[i % len(kinds)](_Random(recipe.seed * 1000 + i), recipe) for i in range(recipe.count)
    ]
    return np.stack(images)


class _Random:
    """splitmix64 as a stream of integers."""

    def __init__(self, seed: int) -> None:
        self.state = seed & 0xFFFFFFFFFFFFFFFF

    def array(self, *shape: int) -> np.ndarray:
        """Uniform uint64."""
        import numpy as np

        count = 1
        for size in shape:
            count *= size
        step = 0x9E3779B97F4A7C15
        with np.errstate(over="ignore"):
            index = np.arange(1, count + 1, dtype=np.uint64)
            z = np.uint64(self.state) + index * np.uint64(step)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        self.state = (self.state + count * step) & 0xFFFFFFFFFFFFFFFF
        return z.reshape(shape)

    def below(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Uniform int64 in [low, high)."""
        import numpy as np

        return (self.array(*shape) % np.uint64(high - low)).astype(np.int64) + low

    def one(self, low: int, high: int) -> int:
        """One integer in [low, high)."""
        return int(self.below(low, high, 1)[0])


def _wave(phase: np.ndarray) -> np.ndarray:
    """An integer sine: period 65536 to -32768..32768 by two parabolas."""
    import numpy as np

    half = phase % 65536
    sign = np.where(half < 32768, 1, -1)
    x = half % 32768
    wave: np.ndarray = sign * ((x * (32768 - x)) >> 13)
    return wave


def _grid(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H, 1) and columns (1, W) of pixel centres, in units of 1/65536 of the shorter side."""
    import numpy as np

    side = min(recipe.height, recipe.width)
    rows = np.arange(recipe.height, dtype=np.int64)[:, None] * 65536 // side
    columns = np.arange(recipe.width, dtype=np.int64)[None, :] * 65536 // side
    return rows, columns


def _smooth(random: _Random, recipe: Recipe) -> np.ndarray:
    import numpy as np

    rows, columns = _grid(recipe)
    channels = []
    for _ in range(recipe.channels):
        total = np.zeros((recipe.height, recipe.width), np.int64)
        for _ in range(2):
            a, b, phase = (int(v) for v in random.below(20, 200, 3))
            total += _wave((rows * a + columns * b) // 100 + phase * 400)
        channels.append(128 + total * 120 // 65536)
    return _pixels(np.stack(channels, -1))


def _noise(random: _Random, recipe: Recipe) -> np.ndarray:
    """1/f noise: octaves of a random lattice between which values run linearly."""
    import numpy as np

    total = np.zeros((recipe.height, recipe.width, recipe.channels), np.int64)
    amplitude, cells = 256, 2
    while amplitude >= 4 and cells < max(recipe.height, recipe.width):
        lattice = random.below(-amplitude, amplitude + 1, cells + 2, cells + 2, recipe.channels)
        total += _interpolate(lattice, recipe, cells)
        amplitude, cells = amplitude // 2, cells * 2
    return _pixels(128 + total // 3)


def _interpolate(lattice: np.ndarray, recipe: Recipe, cells: int) -> np.ndarray:
    """A lattice (cells + 2, cells + 2, C) at every pixel, bilinear, in 1/256 steps."""
    import numpy as np

    y = np.arange(recipe.height, dtype=np.int64) * (cells * 256) // recipe.height
    x = np.arange(recipe.width, dtype=np.int64) * (cells * 256) // recipe.width
    y0, fy = y >> 8, (y & 255)[:, None, None]
    x0, fx = x >> 8, (x & 255)[None, :, None]
    top = lattice[y0][:, x0] * (256 - fx) + lattice[y0][:, x0 + 1] * fx
    bottom = lattice[y0 + 1][:, x0] * (256 - fx) + lattice[y0 + 1][:, x0 + 1] * fx
    values: np.ndarray = (top * (256 - fy) + bottom * fy) >> 16
    return values


def _discs(random: _Random, recipe: Recipe) -> np.ndarray:
    import numpy as np

    rows, columns = _grid(recipe)
    image = np.empty((recipe.height, recipe.width, recipe.channels), np.int64)
    image[:] = random.below(0, 256, recipe.channels)
    # An edge across the picture, then discs over it.
    a, b = (int(v) for v in random.below(-100, 101, 2))
    image[(rows * a + columns * (b or 1)) > 32768 * (a + b) // 2] = random.below(
        0, 256, recipe.channels
    )
    for _ in range(6):
        cy, cx = (int(v) for v in random.below(0, 65536, 2))
        radius = random.one(3000, 20000)
        inside = (rows - cy) ** 2 + (columns - cx) ** 2 < radius**2
        image[inside] = random.below(0, 256, recipe.channels)
    return _pixels(image)


def _checkers(random: _Random, recipe: Recipe) -> np.ndarray:
    import numpy as np

    rows, columns = _grid(recipe)
    size = random.one(1500, 9000)
    odd = ((rows // size + columns // size) % 2)[..., None].astype(np.int64)
    light, dark = random.below(140, 256, recipe.channels), random.below(0, 110, recipe.channels)
    return _pixels(odd * light + (1 - odd) * dark)


def _flat(random: _Random, recipe: Recipe) -> np.ndarray:
    import numpy as np

    image = np.empty((recipe.height, recipe.width, recipe.channels), np.int64)
    image[:] = random.below(30, 226, recipe.channels)
    return _pixels(image)


def _pixels(values: np.ndarray) -> np.ndarray:
    import numpy as np

    pixels: np.ndarray = np.clip(values, 0, 255).astype(np.uint8)
    return pixels


def read_images(
    folder: Path, height: int, width: int, channels: int, most: int | None = None, crop: Any = None
) -> np.ndarray:
    """The images of a folder as probes: uint8 (N, height, width, channels), sorted by name.

    :param crop: a callable from a PIL image to one of (width, height), the model's own transform;
        None resizes.
    :param most: as many are read; None: all of them, which are not to be too many.
    :raises RequestError: no images there, too many, or one that cannot be read.
    """
    import numpy as np

    paths = _chosen(folder, most, height * width * channels)
    if channels not in (1, 3):
        raise RequestError(f"images have 1 or 3 channels, and the model takes {channels}")
    from PIL import Image

    result = []
    for path in paths:
        with _opened(path) as image:
            if max(image.size) > MOST_RATIO * min(image.size):
                shown = "x".join(map(str, image.size))
                raise RequestError(f"the image {path} is a mere line: {shown}")
            converted = image.convert("RGB" if channels == 3 else "L")
        fitted = (
            crop(converted) if crop else converted.resize((width, height), Image.Resampling.BICUBIC)
        )
        result.append(np.asarray(fitted, np.uint8).reshape(height, width, channels))
    return np.stack(result)


def find_images(folder: Path) -> list[Path]:
    """The files of a folder that are called images, sorted by name.

    :raises RequestError: there are none.
    """
    try:
        files = sorted(folder.iterdir()) if folder.is_dir() else None
    except OSError as error:
        raise RequestError(f"the folder {folder} cannot be read: {error.strerror}") from None
    if files is None:
        what = "is not a folder of images" if folder.exists() else "does not exist"
        raise RequestError(f"{folder} {what}")
    paths = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise RequestError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return paths


def check_images(folder: Path, most: int | None = None) -> None:
    """Whether a folder holds images, by what their first bytes say: cheap, and without torch.

    :raises RequestError: it does not, they are too many, or one that would be read is none.
    """
    for path in _chosen(folder, most):
        with _opened(path):
            pass


def _chosen(folder: Path, most: int | None, size: int = 1) -> list[Path]:
    """The first images of a folder, or all.

    :param size: bytes of one of them, as the model takes it.
    :raises RequestError: all are wanted, and they are too many.
    """
    paths = find_images(folder)
    limit = min(MOST_IMAGES, MOST_IMAGE_BYTES // size)
    if most is None and len(paths) > limit:
        raise RequestError(
            f"{folder} holds {len(paths):,} images, and at most {limit:,} can be compared",
            "name a folder with some of them",
        )
    return paths[:most]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image of which only the header has been read.

    :raises RequestError: it cannot be, nor what is read of it within the `with`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_regular(path) as file, Image.open(file) as image:
            yield image
    except UnidentifiedImageError:
        raise RequestError(f"cannot read the image {path}: it is none that Pillow knows") from None
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot read the image {path}: {reason}") from None


def positions(size: int, count: int, seed: int = 0) -> np.ndarray:
    """Positions below `size`, int64, for sampling a large output."""
    return _Random(seed).below(0, size, count)


def most_batch(channels: int, height: int, width: int) -> int:
    """How many images of a size may be run at once, as float32."""
    return max(1, MOST_VALUES // (channels * height * width))


def keys(size: int) -> np.ndarray:
    """A random number of each position below `size`, uint64: an order that no value decides."""
    return _Random(1).array(size)
