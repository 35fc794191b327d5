"""Weights: reading checkpoints safely, fitting them to a model, reaching the hub in time."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.errors import ModelError, first_line

if TYPE_CHECKING:
    import torch

HUB_TIMEOUT = 6.0  # seconds until a hub that does not answer counts as unreachable
HINT_OFFLINE = (
    "without a hub: --checkpoint FILE, or MODEL as local-dir:PATH (config.json + weights)"
)
# In order of preference, as training scripts of timm and others name them.
STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
WRAPPER_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")  # torch.compile and DDP, either order


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors or torch file, wrapper prefixes removed.

    torch files are read with `weights_only=True` and never otherwise: a pickle that wants to run
    code is refused, and the code does not run.

    :raises ModelError: missing, unreadable, unsafe, or without tensors.
    """
    if not path.is_file():
        raise ModelError(
            f"checkpoint {path} does not exist"
            if not path.exists()
            else f"checkpoint {path} is not a file"
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    return clean_keys(_select(content, path))


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot read {path} as safetensors: {first_line(error)}") from None


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, with `weights_only=True`.

    :raises ModelError: unreadable or unsafe.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch words both "unsafe global" and "not a pickle at all" as UnpicklingError.
        unsafe = "Unsupported global" in str(error) or "GLOBAL" in str(error)
        if unsafe or "Unsupported class" in str(error) or "Unsupported operand" in str(error):
            raise ModelError(
                f"refused {path}: it is a pickle that wants to run code or build objects",
                "save only the state dict, best as .safetensors",
            ) from None
        raise ModelError(f"cannot read {path}: {first_line(error)}") from None
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


def _select(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(content, Mapping):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), Mapping):
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
    """Without the prefixes that wrappers put before every name."""
    cleaned = {}
    for key, value in state.items():
        for prefix in WRAPPER_PREFIXES:
            key = key.removeprefix(prefix)
        cleaned[key] = value
    return cleaned


def load_into(model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load every tensor, or say what does not fit (at most five names, and the count).

    :raises ModelError: keys are missing or unexpected, or shapes differ.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} ({_shape(state[k])} in the file, {_shape(own[k])} in the model)"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    problems = [
        _count("missing", missing),
        _count("unexpected", unexpected),
        _count("of another shape", wrong),
    ]
    if any(problems):
        raise ModelError(
            f"{source} does not fit the model: " + "; ".join(p for p in problems if p),
            "is it the right MODEL, with the right --num-classes and --in-chans?",
        )
    model.load_state_dict(dict(state), strict=False)


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _count(kind: str, keys: list[str], most: int = 5) -> str:
    if not keys:
        return ""
    shown = ", ".join(key[:120] for key in keys[:most])
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{len(keys)} {kind}: {shown}{more}"


def digest(model: torch.nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of all parameters and buffers, by name."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            total.update(memoryview(flat.view(torch.uint8).numpy()))
    return total.hexdigest()


@functools.cache
def require_hub(url: str, what: str) -> None:
    """Find out within seconds that a hub cannot be reached, before a client retries for minutes.

    :raises ModelError: no answer within `HUB_TIMEOUT`.
    """
    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            _head(url)
            outcome.append(None)
        except Exception as error:  # noqa: BLE001 - any failure means: not reachable
            outcome.append(error)

    # A thread, since name resolution knows no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    if not outcome:
        raise ModelError(f"{what}: the hub does not answer", HINT_OFFLINE)
    if outcome[0] is not None:
        raise ModelError(
            f"{what}: the hub cannot be reached ({first_line(outcome[0], 100)})", HINT_OFFLINE
        )


def _head(url: str) -> None:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(url, method="HEAD")  # noqa: S310 - from the configuration, not from a file
    try:
        urlopen(request, timeout=HUB_TIMEOUT - 1).close()  # noqa: S310
    except HTTPError as answer:
        answer.close()  # an answer of any status shows that the hub is there


def hub_endpoint() -> str:
    """The address of the model hub, as its own client has it configured."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def require_hub_or_cache(name: str) -> None:
    """The same before torch is imported: only the name is known, and not its repository.

    :raises ModelError: nothing in the cache looks like it, and the hub does not answer.
    """
    from huggingface_hub import constants

    word = name.partition("@")[0].rpartition("/")[2].partition(".")[0]
    if not any(Path(constants.HF_HUB_CACHE).glob(f"models--*{word}*")):
        require_hub(hub_endpoint(), f"cannot download the weights of {name}")


def in_hub_cache(repo: str) -> bool:
    """Whether some weights of a hub repository are on this machine already."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = repo.partition("@")
    names = (
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    )
    return any(
        isinstance(try_to_load_from_cache(repo, name, revision=revision or None), str)
        for name in names
    )


def use_hub_cache_only() -> None:
    """Tell the hub's client not to ask the network, so that cached weights load at once."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
