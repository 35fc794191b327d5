"""Weights: fitting them to a model, telling them apart, reaching the hub in time."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.errors import ModelError, first_line

if TYPE_CHECKING:
    import torch

HUB_TIMEOUT = 6.0  # seconds until a hub that does not answer counts as unreachable
HINT_OFFLINE = (
    "without a hub: --checkpoint FILE, or MODEL as local-dir:PATH (config.json + weights)"
)

QUANTIZED_HINT = (
    "a quantized checkpoint holds whole numbers and their scales apart: give the one in floating "
    "point that it was made from"
)


def load_into(model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> list[str]:
    """Load every tensor, or say what does not fit (at most five names, and the count).

    :return: what was done to make them fit, a line each, without the source's name.
    :raises ModelError: keys are missing or unexpected, or shapes differ.
    """
    own = model.state_dict()
    state, notes = _without_prefix(state, own, source)
    check_plain(state, source)
    state, resampled = _filtered(model, state, own)
    check_floating(state, own, source)
    missing = [k for k in _needed(own) if k not in state]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} ({_shape(state[k])} in the file, {_shape(own[k])} in the model)"
        for k in _of_another_shape(state, own)
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
    try:
        model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        # Its first line says only that there were errors.
        lines = [line.strip()[:200] for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"{source} cannot be loaded: {lines[-1]}") from error
    return notes + resampled


def check_plain(state: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse tensors that hold something else than one real number at each place.

    :raises ModelError: names the first of them.
    """
    import torch

    for name, tensor in state.items():
        kind, hint = "", "save the real weights that the model computes with"
        if tensor.is_complex():
            kind = f"holds complex numbers ({str(tensor.dtype).removeprefix('torch.')})"
        elif tensor.is_meta:
            kind, hint = "holds no numbers", "load the weights before they are saved"
        elif getattr(tensor, "is_quantized", False):
            kind, hint = "is quantized", QUANTIZED_HINT
        elif tensor.layout != torch.strided or tensor.is_nested:
            kind, hint = "is a sparse tensor", "save it with to_dense()"
        if kind:
            raise ModelError(f"{source}: {_ascii(name)} {kind}", hint)


def check_folder(model: torch.nn.Module, folder: Path) -> None:
    """The same of the weights of a folder, which timm has loaded and cast to real numbers.

    :raises ModelError: names the first that such a cast does not do justice to.
    """
    from timm.models._hub import load_state_dict_from_path

    state = load_state_dict_from_path(folder)
    check_plain(state, str(folder))
    check_floating(state, model.state_dict(), str(folder))


def check_floating(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], source: str
) -> None:
    """Refuse whole numbers in the place of weights: their scales would be missing.

    :raises ModelError: names the first of them.
    """
    for name, tensor in state.items():
        real = name not in own or not own[name].is_floating_point() or tensor.is_floating_point()
        if not real:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{source}: {_ascii(name)} holds {kind}, and the model computes with real numbers",
                QUANTIZED_HINT,
            )


def _without_prefix(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], source: str
) -> tuple[Mapping[str, torch.Tensor], list[str]]:
    """What a training framework wrapped the model in stands before its names: `model.`, and so on.

    :raises ModelError: more than one prefix has a whole model behind it.
    """
    needed = set(_needed(own))
    if needed <= state.keys():
        return state, []
    counts: Counter[str] = Counter()
    for key in state:
        places = (place.end() for place in re.finditer(r"\.", key))
        counts.update(key[:place] for place in places if key[place:] in needed)
    whole = sorted(prefix for prefix, count in counts.items() if count == len(needed))
    if not whole:
        return state, []
    if len(whole) > 1:
        raise ModelError(
            f"{source} holds more than one such model: {', '.join(map(_ascii, whole[:5]))}",
            "save the state dict of the one that is meant",
        )
    prefix = whole[0]
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    others = [_ascii(key) for key in state if not key.startswith(prefix)]
    left = f"; left out: {_some(others)}" if others else ""
    return inner, [f"the checkpoint's names begin with {_ascii(prefix)}, which is taken off{left}"]


def _filtered(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> tuple[Mapping[str, torch.Tensor], list[str]]:
    """Names of older forms, and tables of positions of another size, as timm itself fits them."""
    filter_ = getattr(sys.modules.get(type(model).__module__), "checkpoint_filter_fn", None)
    if filter_ is None or _fits(state, own):
        return state, []
    try:
        given = dict(filter_(dict(state), model))
    except (
        RuntimeError,
        ArithmeticError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
    ):
        return state, []  # it is another model's; what does not fit is said next
    if not _fits(given, own):
        return state, []
    resized = [f"{k} from {_shape(state[k])}" for k in _of_another_shape(state, own)]
    what = f"resampled: {_some(resized)}" if resized else "its names are of another form"
    return given, [f"the checkpoint was fitted by timm's own filter ({what})"]


def _fits(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> bool:
    return state.keys() >= set(_needed(own)) and not _of_another_shape(state, own)


def _needed(own: Mapping[str, torch.Tensor]) -> list[str]:
    """Counters of batches are no weights, and may be missing."""
    return [key for key in own if not key.endswith("num_batches_tracked")]


def _of_another_shape(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> list[str]:
    return [key for key in own if key in state and own[key].shape != state[key].shape]


def _ascii(name: str) -> str:
    """A name from a file, as every manifest and terminal can hold it."""
    return ascii(name[:60])[1:-1]


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _count(kind: str, keys: list[str]) -> str:
    return f"{len(keys)} {kind}: {_some(keys)}" if keys else ""


def _some(keys: list[str], most: int = 5) -> str:
    shown = ", ".join(key[:120] for key in keys[:most])
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{shown}{more}"


def digest(model: torch.nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of all parameters and buffers, by name."""
    import torch

    total = hashlib.sha256()
    # A module may keep more than its numbers in there.
    state: dict[str, Any] = {n: t for n, t in model.state_dict().items() if torch.is_tensor(t)}
    for name, tensor in sorted(state.items()):
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


@contextlib.contextmanager
def hub_cache_only() -> Iterator[None]:
    """Keep the hub's client from asking the network, so that cached weights load at once."""
    import huggingface_hub
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        # Older clients make sessions that stay as they were begun.
        getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()
