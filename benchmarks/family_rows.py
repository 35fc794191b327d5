"""What benchmarks over timm's families share: which models, which images, and a row for each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from timmx_core.files.manifest import versions_of
from timmx_core.models.build import Preprocessing
from timmx_core.models.inputs import reference_input
from timmx_core.verification import probes

RESULTS = Path(__file__).parent / "results"


def families(below: float = float("inf")) -> list[str]:
    """The smallest of each family, the smallest first.

    :param below: how many parameters are too many.
    """
    rows = json.loads((RESULTS / "smallest.json").read_text("utf-8"))["rows"].values()
    small = [row for row in rows if row["parameters"] < below]
    return [row["model"] for row in sorted(small, key=lambda row: int(row["parameters"]))]


def images_for(model: torch.nn.Module) -> torch.Tensor:
    """The images of a verification, as a model of timm takes them: (N, C, H, W), float32."""
    config: Any = model.pretrained_cfg
    size = config["input_size"]
    pixels = probes.make(probes.Recipe(size[1], size[2], size[0]))
    return reference_input(pixels, Preprocessing(size, config["mean"], config["std"]))


def rate_missing(
    name: str,
    about: str,
    known: list[str],
    rate: Callable[[str], dict[str, Any]],
    errors: tuple[type[Exception], ...],
    told: Callable[[dict[str, Any]], object],
) -> None:
    """Rate the models on the command line, or those known, that `results/NAME.json` lacks.

    :param about: the first line of the command's help.
    :param errors: what `rate` may end with; the row then holds its first line.
    :param told: what to print of a row, beside its model.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("models", nargs="*")
    chosen = parser.parse_args().models or known
    result = RESULTS / f"{name}.json"
    content: dict[str, Any] = {"rows": {}}
    if result.exists():
        content = json.loads(result.read_text("utf-8"))
    content["command"] = f"python benchmarks/{name}.py"
    content["versions"] = versions_of(("timmx-core", "timm", "torch"))
    for model in chosen:
        if model in content["rows"]:
            continue
        try:
            content["rows"][model] = rate(model)
        except errors as error:
            content["rows"][model] = {"error": str(error).splitlines()[0][:100]}
        result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(model, told(content["rows"][model]), flush=True)
