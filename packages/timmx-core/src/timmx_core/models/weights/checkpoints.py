"""Files of weights, read without running anything of them."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.errors import ModelError, first_line
from timmx_core.process.paths import is_text
from timmx_core.reading.regular import open_regular, read_regular

if TYPE_CHECKING:
    import torch

# In order of preference, as training scripts of timm and others name them.
STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
MOST_HEADER = 100_000_000  # bytes of a safetensors header, by its specification
# What training scripts keep beside the weights: their arguments, and metrics that numpy computed.
BESIDE_WEIGHTS = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
GLOBAL = re.compile(r"GLOBAL ([\w.]{1,200})")


class _Inert:
    """Takes the place of what stands beside the weights, and holds nothing of it.

    Nothing of the real classes is called, so that a file gains nothing by naming them.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors or torch file, wrapper prefixes removed.

    Which of both it is, its content says, and not its name. torch files are read with
    `weights_only=True` and never otherwise: a pickle that wants to run code is refused, and the
    code does not run.

    :raises ModelError: missing, unreadable, unsafe, or without tensors.
    """
    if not path.is_file():
        raise ModelError(
            f"checkpoint {path} does not exist"
            if not path.exists()
            else f"checkpoint {path} is not a file"
        )
    content = _read_safetensors(path) if _is_safetensors(path) else read_torch(path)
    return clean_keys(_select(content, path))


def _is_safetensors(path: Path) -> bool:
    """By its first bytes; by its name where they are of neither kind."""
    start = _begins(path, 9)
    if len(start) == 9 and start[8:] == b"{":
        return bool(struct.unpack("<Q", start[:8])[0] <= MOST_HEADER)
    pickled = start.startswith((b"PK", b"\x80"))
    return path.suffix.lower() == ".safetensors" and not pickled


def _begins(path: Path, length: int = 1) -> bytes:
    """The first bytes of a file.

    :raises ModelError: they cannot be read.
    """
    try:
        return read_regular(path, length)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        # It opens paths in UTF-8 alone.
        return load_file(path) if is_text(path) else load(read_regular(path))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"cannot read {path} as safetensors: {first_line(error)}",
            "it may be truncated: copy or download it again",
        ) from None


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, with `weights_only=True`.

    :raises ModelError: unreadable or unsafe.
    """
    import torch

    stand_ins: list[Any] = [(_Inert, name) for name in BESIDE_WEIGHTS]
    try:
        # A file and no path, of which torch would go by the name.
        with open_regular(path) as file, torch.serialization.safe_globals(stand_ins):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        AssertionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise ModelError(
            f"cannot read {path} as a torch file: {first_line(error)}",
            "it may be truncated; accepted are .safetensors and torch.save'd state dicts",
        ) from None


def _refusal(path: Path, said: str) -> ModelError:
    """torch words "unsafe global" and "not a pickle at all" as one error."""
    named = GLOBAL.search(said)
    if named is not None or "Can only" in said or "unrecognized function" in said:
        what = f": {named[1]}" if named is not None else ""
        return ModelError(
            f"refused {path}: it is a pickle that wants to run code or build objects{what}",
            "save only the state dict, best as .safetensors",
        )
    if _begins(path) == b"\x80":
        return ModelError(
            f"refused {path}: it is a pickle that torch.save did not write, and could run code",
            "save only the state dict, best as .safetensors",
        )
    return ModelError(
        f"cannot read {path}: it is neither safetensors nor what torch.save writes",
        "accepted are .safetensors and torch.save'd state dicts",
    )


def _select(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(content, Mapping):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), Mapping) and content[key]:
                content = content[key]
                break
        tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        if tensors:
            return tensors
    raise ModelError(
        f"{path} holds no state dict",
        f"expected tensors by name, at the top or under {', '.join(STATE_DICT_KEYS)}",
    )


def clean_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what torch.compile puts into a name, at any depth, and DDP before every name."""
    return {
        ".".join(part for part in key.split(".") if part != "_orig_mod").removeprefix(
            "module."
        ): value
        for key, value in state.items()
    }


def loading_failure(name: str, error: Exception) -> ModelError | None:
    """What timm's error means, where it is about the files that it loaded; None for any other.

    :param name: the model, as it was asked for.
    """
    from safetensors import SafetensorError

    said = str(error)
    again = (
        f"copy the files of {name} again"
        if name.startswith("local-dir:")
        else "remove it from the hub's cache, and it is downloaded again"
    )
    if isinstance(error, json.JSONDecodeError):
        return ModelError(f"the config.json of {name} cannot be read: {first_line(error)}", again)
    if isinstance(error, SafetensorError | EOFError) or "PytorchStreamReader" in said:
        reason = first_line(error) if said else "the file is empty"
        return ModelError(f"the weights of {name} are damaged or cut short: {reason}", again)
    if "weights_only=True blocked" in said:
        named = re.search(r"Unsupported globals?: ([\w., ]{1,200})", said)
        what = f": {named[1].rstrip('. ')}" if named is not None else ""
        return ModelError(
            f"refused the weights of {name}: they want to run code or build objects{what}",
            "only .safetensors, or a state dict of tensors alone, is safe to load",
        )
    if said.startswith("Error(s) in loading state_dict"):
        lines = [line.strip()[:200] for line in said.splitlines()[1:]]
        more = f"; and {len(lines) - 5} lines more" if len(lines) > 5 else ""
        return ModelError(
            f"the weights of {name} do not fit the model: {'; '.join(lines[:5])}{more}",
            "is it the right model, with the right --num-classes and --in-chans?",
        )
    return None
