"""What can be found wrong with MODEL and its weights before torch is imported."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from timmx_core.errors import ModelError, RequestError
from timmx_core.models.weights import sources as weights
from timmx_core.process.paths import is_text

# What core passes to timm itself; a --model-kwarg of that name would contradict an option.
MOST_CONFIG = 16 << 20
RESERVED_KWARGS = {
    "cache_dir": None,
    "checkpoint_path": "--checkpoint",
    "exportable": None,
    "features_only": "--features",
    "img_size": "--input-size",
    "in_chans": "--in-chans",
    "model_name": "MODEL",
    "num_classes": "--num-classes",
    "out_indices": "--out-indices",
    "pretrained": "--pretrained",
    "pretrained_cfg": None,
    "pretrained_cfg_overlay": None,
    "scriptable": None,
}


def check_name(name: str, model_kwarg: tuple[str, ...] = ()) -> None:
    """Refuse a name that timm cannot know, in milliseconds and without importing torch.

    :raises ModelError: with near matches.
    """
    from timmx_core.models.names import catalog

    parse_kwargs(model_kwarg)
    if name.startswith("local-dir:"):
        _check_folder(Path(name.removeprefix("local-dir:")))
        return
    if ":" in name:
        if not re.fullmatch(r"hf[-_]hub:\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?", name):
            raise ModelError(
                f"{name!r} is not a model name",
                "MODEL is a timm name, hf-hub:org/name, or local-dir:PATH",
            )
        return
    architecture = name.partition(".")[0]
    if architecture not in catalog.model_names():
        near = catalog.near_matches(name)
        raise ModelError(
            f"timm has no model {name!r}",
            f"did you mean {', '.join(near)}?" if near else "see: timmx list",
        )
    if "." in name and name not in catalog.pretrained_names():
        tags = [n for n in catalog.pretrained_names() if n.partition(".")[0] == architecture]
        raise ModelError(
            f"timm has no weights {name!r}",
            f"there are {', '.join(tags[:5])}" if tags else f"{architecture} has no weights at all",
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose config.json timm could make nothing of, or too much.

    :raises ModelError: says what is wrong with it.
    """
    from timmx_core.models.names import catalog
    from timmx_core.reading import strict_json
    from timmx_core.reading.regular import open_regular, read_regular

    if not is_text(folder):
        raise ModelError(f"folder {folder} cannot be spelt in UTF-8", "rename or copy it")
    path = folder / "config.json"
    if not os.path.isfile(path):  # noqa: PTH113 (a name that no file can have is none)
        raise ModelError(
            f"{folder} holds no config.json"
            if os.path.isdir(folder)  # noqa: PTH112
            else f"folder {folder} does not exist",
            "local-dir:PATH wants a folder with config.json and model.safetensors",
        )
    try:
        config = strict_json.loads(read_regular(path, MOST_CONFIG))
        for other in folder.iterdir():
            if not other.is_dir() and other.exists():
                open_regular(other).close()  # of a pipe timm would wait for what it holds
    except (OSError, strict_json.BadJson) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str) or architecture not in catalog.model_names():
        raise ModelError(
            f"{path} names no architecture of timm's",
            'it is a JSON object like {"architecture": "resnet18", "num_classes": 10}',
        )
    for key in ("model_args", "pretrained_cfg"):
        if not isinstance(config.get(key, {}), dict):
            raise ModelError(f"{path}: {key} is not an object")


def check_weights(name: str, shared: Mapping[str, Any]) -> None:
    """Refuse --pretrained without weights to have, and weights that are not there.

    :raises ModelError: the checkpoint is not a file, or timm publishes none for this model.
    """
    from timmx_core.models.names import catalog

    if shared["checkpoint"] and not Path(shared["checkpoint"]).is_file():
        raise ModelError(f"checkpoint {shared['checkpoint']} does not exist or is no file")
    if shared["checkpoint"] and shared["pretrained"]:
        raise RequestError("--pretrained and --checkpoint exclude each other")
    if shared["pretrained"] and ":" not in name and "." not in name:
        prefix = name + "."
        if not any(n == name or n.startswith(prefix) for n in catalog.pretrained_names()):
            raise ModelError(
                f"timm publishes no weights for {name}", "give your own with --checkpoint FILE"
            )


def check_hub(name: str, shared: Mapping[str, Any]) -> None:
    """Refuse what only a hub has, where the hub cannot be reached; before torch is imported.

    :raises ModelError: within seconds.
    """
    from_hub = name.startswith(("hf-hub:", "hf_hub:"))
    if (from_hub or (shared["pretrained"] and ":" not in name)) and find_spec("huggingface_hub"):
        weights.require_hub_or_cache(name.rpartition(":")[2])


def parse_kwargs(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` words as arguments; a value is a Python literal, or else the word itself.

    :raises RequestError: not of that form, or an argument that an option of timmx sets.
    """
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise RequestError(f"--model-kwarg wants KEY=VALUE, not {pair!r}")
        if key in RESERVED_KWARGS:
            option = RESERVED_KWARGS[key]
            raise RequestError(f"--model-kwarg cannot set {key}", f"use {option}" if option else "")
        try:
            result[key] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            result[key] = value
    return result
