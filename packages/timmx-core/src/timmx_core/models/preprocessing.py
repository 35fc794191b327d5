"""How an image becomes a model's input.

What was asked for comes first, then what the module itself is built for, then what the
configuration of its weights says. What none of them says is left open, not made up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx_core.errors import ModelError, RequestError, TimmxError, first_line
from timmx_core.request.shared_options import CROP_MODES, INTERPOLATIONS, MOST_CROP

if TYPE_CHECKING:
    import torch

# As the manifest's schema has them: timm's own configurations know one word more.
KNOWN_INTERPOLATIONS = (*INTERPOLATIONS, "random")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input, as the weights were evaluated with.

    None: nobody says how images are resized and cropped.
    """

    input_size: tuple[int, int, int]  # C, H, W
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None


def settled(
    interpolation: str | None, crop_pct: float | None, crop_mode: str | None
) -> tuple[str, float, str]:
    """What is done with images of one's own: as said, else the whole of them is resized."""
    mode = crop_mode or ("squash" if crop_pct is None else "center")
    return interpolation or "bicubic", crop_pct or 1.0, mode


def resolve(
    module: torch.nn.Module, shared: Mapping[str, Any], *, named: bool
) -> tuple[Preprocessing, list[str]]:
    """The same for a model that timm built by name and for a module that was given.

    :param named: timm's defaults hold for what the configuration leaves open.
    :return: and what a person should know of it.
    :raises ModelError: the configuration, which may be a stranger's, makes no sense.
    :raises RequestError: nobody says what size the input has.
    """
    try:
        config = configuration(module)
        if named:
            import timm

            data: Any = timm.data
            config = data.resolve_model_data_config(module) | config
        result, notes = _resolve(module, shared, config)
        _check(result)
    except TimmxError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model's configuration makes no sense: {first_line(error)}"
        ) from error
    return result, notes


def configuration(module: torch.nn.Module) -> dict[str, Any]:
    """What `pretrained_cfg` says; entries that say nothing are left out.

    :raises ModelError: it is no mapping.
    """
    found: Any = getattr(module, "pretrained_cfg", None)
    found = found.to_dict() if hasattr(found, "to_dict") else found
    if found is not None and not isinstance(found, Mapping):
        raise ModelError(
            "the model's configuration makes no sense: pretrained_cfg is of type "
            f"{type(found).__name__}"
        )
    return {str(key): value for key, value in (found or {}).items() if value is not None}


def _resolve(
    module: torch.nn.Module, shared: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[Preprocessing, list[str]]:
    size, notes = _size(module, shared, config)
    chans = size[0]
    given = {
        name: config.get(name) if shared[name] is None else shared[name]
        for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    }
    mean, std = _numbers(given["mean"]), _numbers(given["std"])
    if not mean or not std:
        notes.append("the module says no mean and std: its input is taken as pixels in [0, 1]")
    if given["crop_pct"] is None:
        notes.append(
            "the module does not say how its images are resized and cropped, and neither will the "
            "file (--crop-pct, --interpolation, --crop-mode)"
        )
    result = Preprocessing(
        input_size=size,
        mean=per_channel(mean or (0.0,), chans, "--mean"),
        std=per_channel(std or (1.0,), chans, "--std"),
        interpolation=None if given["interpolation"] is None else str(given["interpolation"]),
        crop_pct=None if given["crop_pct"] is None else float(given["crop_pct"]),
        crop_mode=None if given["crop_mode"] is None else str(given["crop_mode"]),
    )
    return result, notes


def _numbers(values: Any) -> tuple[float, ...]:
    """Of a list, an array or a tensor."""
    return () if values is None else tuple(float(value) for value in values)


def _size(
    module: torch.nn.Module, shared: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[int, int, int], list[str]]:
    asked, asked_chans = shared["input_size"], shared["in_chans"]
    if asked is not None and asked_chans not in (None, asked[0]):
        raise RequestError(f"in_chans {asked_chans} and input_size {tuple(asked)} disagree")
    if asked is not None:
        return (asked[0], asked[1], asked[2]), []
    stated = config.get("input_size")
    if stated is None:
        raise RequestError("a module of your own needs input_size=(C, H, W)")
    chans, height, width = (int(number) for number in stated)
    notes = []
    own = _own_size(module)
    if own is not None and own != (height, width):
        notes.append(_contradiction(f"{own[0]}x{own[1]}", f"{height}x{width}"))
        height, width = own
    if asked_chans is not None:
        return (int(asked_chans), height, width), notes
    own_chans = _own_channels(module, config.get("first_conv"), (chans, height, width))
    if own_chans != chans:
        notes.append(_contradiction(_count(own_chans), _count(chans)))
    return (own_chans, height, width), notes


def _contradiction(own: str, stated: str) -> str:
    return f"the model is built for {own}, and its configuration says {stated}: {own} is taken"


def _count(chans: int) -> str:
    return "1 channel" if chans == 1 else f"{chans} channels"


def _own_size(module: torch.nn.Module) -> tuple[int, int] | None:
    """The image size that one of timm's modules was built for, where it was built for one."""
    if not any(kind.__module__.startswith("timm.") for kind in type(module).__mro__):
        return None
    # features_only keeps the network inside.
    for holder in (module, getattr(module, "model", None)):
        arguments = getattr(holder, "pretrained_model_args", None) or {}
        for said in (
            getattr(getattr(holder, "patch_embed", None), "img_size", None),
            getattr(holder, "img_size", None),
            arguments.get("img_size") if isinstance(arguments, Mapping) else None,
        ):
            if isinstance(said, int):
                return said, said
            if isinstance(said, (tuple, list)) and len(said) == 2:
                return int(said[0]), int(said[1])
    return None


def _own_channels(module: torch.nn.Module, first: Any, stated: tuple[int, int, int]) -> int:
    """Channels of the first convolution, unless the module takes what is stated all the same.

    Some networks fold pixels into channels before it.
    """
    own = _first_convolution(module, first)
    if own in (None, stated[0]) or _takes(module, stated):
        return stated[0]
    assert own is not None
    return own if _takes(module, (own, *stated[1:])) else stated[0]


def _first_convolution(module: torch.nn.Module, names: Any) -> int | None:
    import torch

    first = names[0] if isinstance(names, (tuple, list)) and names else names
    modules = dict(module.named_modules())
    named = modules.get(first) if isinstance(first, str) else None
    if not isinstance(named, torch.nn.Conv2d):
        named = next((m for m in modules.values() if isinstance(m, torch.nn.Conv2d)), None)
    return None if named is None else named.in_channels


def _takes(module: torch.nn.Module, size: tuple[int, int, int]) -> bool:
    try:
        # Of a copy: some models keep what they compute first.
        run_shapes(copy.deepcopy(module), size)
    except Exception:  # noqa: BLE001 - whatever it is, it did not run
        return False
    return True


def run_shapes(module: torch.nn.Module, size: tuple[int, int, int]) -> None:
    """Run the shapes alone, without numbers, through a model.

    :raises Exception: whatever the model raises.
    """
    import torch

    with torch.no_grad(), torch.device("meta"):
        state = {
            name: torch.empty_like(tensor, device="meta")
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        torch.func.functional_call(module, state, (torch.empty(1, *size, device="meta"),))


def _check(pre: Preprocessing) -> None:
    """Refuse what no image can be brought into.

    :raises ModelError: names what it is.
    """
    crop = 1.0 if pre.crop_pct is None else pre.crop_pct
    wrong = {
        "input_size": min(pre.input_size) < 1,
        "mean, std or crop_pct": not all(map(math.isfinite, (*pre.mean, *pre.std, crop))),
        "std": min(pre.std) <= 0,
        "crop_pct": not 0 < crop <= MOST_CROP,
        "interpolation": pre.interpolation not in (None, *KNOWN_INTERPOLATIONS),
        "crop_mode": pre.crop_mode not in (None, *CROP_MODES),
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ModelError(f"the model's configuration makes no sense: {name}")


def per_channel(values: tuple[float, ...], chans: int, option: str) -> tuple[float, ...]:
    """One value per channel. RGB statistics on other channel counts become their average.

    :raises RequestError: the count fits neither.
    """
    if len(values) == chans:
        return values
    if len(values) == 1:
        return values * chans
    if len(values) == 3:
        return (round(sum(values) / 3, 6),) * chans
    raise RequestError(f"{option} has {len(values)} values for {chans} channels")
