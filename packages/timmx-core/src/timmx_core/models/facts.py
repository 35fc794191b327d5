"""What a model is, on the meta device: shapes without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timmx_core.errors import ModelError
from timmx_core.models import build as models
from timmx_core.models.checks import check_name
from timmx_core.models.plain import PLAIN
from timmx_core.process.torch_state import fresh
from timmx_core.request import options as option_data


def describe(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, input contract, classes, weights of a timm model.

    :param options: shared options (`num_classes`, `in_chans`, `input_size`, `features`, ...).
    :raises ModelError: unknown.
    """
    request = option_data.make_request(PLAIN, name, options)
    check_name(name, request.shared["model_kwarg"])
    timm = models.import_timm()
    import torch

    shared = dict(request.shared) | {"pretrained": False, "checkpoint": None, "input_size": None}
    size = request.shared["input_size"]
    with fresh(), torch.device("meta"):
        try:
            built = models.build(name, shared, {})
        except NotImplementedError as error:
            raise ModelError(f"{name} cannot be built without weights: {error}") from error
    pre = built.preprocessing
    config = dict(getattr(built.module, "pretrained_cfg", None) or {})
    return {
        "name": name,
        "architecture": built.architecture,
        "parameters": built.parameters,
        "task": built.task,
        "num_classes": built.num_classes,
        "input": {
            "channels": pre.input_size[0],
            "height": size[1] if size else pre.input_size[1],
            "width": size[2] if size else pre.input_size[2],
            "mean": list(pre.mean),
            "std": list(pre.std),
            "interpolation": pre.interpolation,
            "crop_pct": pre.crop_pct,
            "crop_mode": pre.crop_mode,
            "fixed_size": bool(config.get("fixed_input_size", False)),
        },
        "weights": {
            "tags": _tags(name),
            "default": config.get("tag") or None,
            "license": config.get("license") or None,
            "origin": config.get("origin_url") or None,
            "paper": config.get("paper_name") or None,
        },
        "versions": {"timm": timm.__version__, "torch": torch.__version__},
    }


def _tags(name: str) -> list[str]:
    from timmx_core.models.names import catalog

    if ":" in name:
        return []
    architecture = name.partition(".")[0]
    return [n for n in catalog.pretrained_names() if n.partition(".")[0] == architecture]
