"""The probes are the same pixel for pixel wherever and whenever they are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timmx_core.errors import RequestError
from timmx_core.verification.probes import (
    Recipe,
    check_images,
    digest,
    make,
    positions,
    read_images,
)

# A file carries the digest of the probes that it was verified with. Where one of these changes,
# every file of earlier versions becomes inconclusive: give the recipe a new name instead.
PINNED = {
    Recipe(32, 32, 3): "8bbc9c6462cc324daa455c6cc2e04730e02603e21d361c079d4233c15532724b",
    Recipe(224, 224, 3): "392bc3b95d9b43ff0693cd7e4d20f9bbe569dbd7798b0bd8cc25012998f3f4a7",
    Recipe(48, 80, 1): "f88ff3df2a0f311ee81bcc44efa8b181e93055a12bfeae19007650a6ccc07c39",
    Recipe(64, 32, 5, count=10, seed=7): (
        "5ae04bd349a69b289759c438a2eaf6161b8c4df45a9e6d8d60f9a8dfdaf29e97"
    ),
}


@pytest.mark.parametrize("recipe", PINNED, ids=str)
def test_a_recipe_gives_these_pixels(recipe: Recipe) -> None:
    pixels = make(recipe)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (recipe.count, recipe.height, recipe.width, recipe.channels)
    assert digest(pixels) == PINNED[recipe]


def test_sampled_positions_are_pinned_as_well() -> None:
    expected = [7535, 55700, 45679, 42444, 94747, 62090, 6913, 46940]
    assert positions(100_000, 8).tolist() == expected


def test_another_seed_gives_other_pixels() -> None:
    assert digest(make(Recipe(32, 32, 3, seed=1))) != digest(make(Recipe(32, 32, 3)))


def test_channels_differ_so_that_an_exchange_shows() -> None:
    for image in make(Recipe(64, 64, 3)).astype(int):
        for a, b in ((0, 1), (1, 2), (0, 2)):
            assert np.abs(image[..., a] - image[..., b]).mean() > 3


def test_probes_differ_from_each_other() -> None:
    pixels = make(Recipe(64, 64, 3)).astype(int)
    for i in range(len(pixels)):
        for j in range(i):
            assert np.abs(pixels[i] - pixels[j]).mean() > 10


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 300)])
def test_any_size_works(size: tuple[int, int]) -> None:
    assert make(Recipe(*size, 3)).shape == (8, *size, 3)


def test_images_of_a_folder_are_probes_sorted_by_name(tmp_path: Path) -> None:
    for name, value in (("b.png", 200), ("a.png", 100)):
        Image.new("RGB", (10, 20), (value, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    pixels = read_images(tmp_path, 8, 8, 3)
    assert pixels.shape == (2, 8, 8, 3)
    assert [int(p[0, 0, 0]) for p in pixels] == [100, 200]


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        read_images(tmp_path / "missing", 8, 8, 3)
    with pytest.raises(RequestError, match="holds no images"):
        read_images(tmp_path, 8, 8, 3)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(RequestError, match=r"cannot read the image .*broken\.png"):
        read_images(tmp_path, 8, 8, 3)
    with pytest.raises(RequestError, match="is not a folder"):
        read_images(tmp_path / "broken.png", 8, 8, 3)
    (tmp_path / "broken.png").unlink()
    Image.new("RGB", (10, 20)).save(tmp_path / "fine.png")
    with pytest.raises(RequestError, match="the model takes 5"):
        read_images(tmp_path, 8, 8, 5)


def test_more_images_than_can_be_held_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        Image.new("RGB", (10, 20)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr("timmx_core.verification.probes.MOST_IMAGES", 3)
    for call in (lambda: check_images(tmp_path), lambda: read_images(tmp_path, 8, 8, 3)):
        with pytest.raises(RequestError, match="4 images, and at most 3"):
            call()
    assert len(read_images(tmp_path, 8, 8, 3, most=2)) == 2
    monkeypatch.undo()
    monkeypatch.setattr("timmx_core.verification.probes.MOST_IMAGE_BYTES", 3 * 8 * 8 * 3)
    check_images(tmp_path)  # of what size the model takes them, is not known yet
    with pytest.raises(RequestError, match="4 images, and at most 3"):
        read_images(tmp_path, 8, 8, 3)


def test_an_image_that_would_be_enlarged_without_end_is_refused(tmp_path: Path) -> None:
    Image.new("L", (30_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(RequestError, match="a mere line: 30000x1"):
        read_images(tmp_path, 8, 8, 3)
