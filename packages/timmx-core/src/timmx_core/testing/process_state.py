"""What a process has set, so that whatever has changed in it can be named."""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

PRECISIONS = [("generic", "all")] + [
    (backend, operation)
    for backend in ("cuda", "mkldnn")
    for operation in ("all", "matmul", "conv", "rnn")
]


def state() -> dict[str, Any]:
    """Name to value, of all that a library might set and its caller would notice."""
    return {
        **_of_python(),
        **_of_logging(),
        **_of_torch(),
        "environment": dict(os.environ),
        "working folder": str(Path.cwd()),
        "children": sorted(child.pid for child in psutil.Process().children()),
        "umask": _umask(),
        "random": _digest(random.getstate()),
        "numpy.random": _digest([np.asarray(x).tobytes() for x in np.random.get_state()]),  # noqa: NPY002
        "numpy's errors": np.geterr(),
        "locale": locale.setlocale(locale.LC_ALL),
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A line for each thing that is not as it was; of mappings for each of their keys."""
    lines = []
    for name, old in before.items():
        new = after[name]
        if isinstance(old, dict):
            lines += [
                f"{name}[{key}]: {old.get(key)!r} became {new.get(key)!r}"
                for key in sorted(old.keys() | new.keys())
                if old.get(key) != new.get(key)
            ]
        elif old != new:
            lines.append(f"{name}: {old!r} became {new!r}")
    return lines


def _of_python() -> dict[str, Any]:
    hooks = (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook)
    return {
        "streams": [id(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "closed streams": [stream.closed for stream in (sys.stdout, sys.stderr)],
        "descriptors": [_descriptor(number) for number in (0, 1, 2)],
        "sys.path": [str(sys.path), id(sys.path)],
        "sys.argv": list(sys.argv),
        "hooks": [id(hook) for hook in hooks],
        "recursion limit": sys.getrecursionlimit(),
        "faulthandler": faulthandler.is_enabled(),
        "garbage": (gc.isenabled(), gc.get_threshold()),
        "warnings": [str(entry) for entry in warnings.filters],
        "showwarning": id(warnings.showwarning),
        "signals": {n.name: str(signal.getsignal(n)) for n in signal.Signals},
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "built-in functions": [id(f) for f in (print, open, __import__)],
    }


def _of_logging() -> dict[str, Any]:
    root = logging.getLogger()
    return {
        "logging": [root.level, str(root.handlers), root.disabled, root.manager.disable],
        "timmx_core's logging": str(logging.getLogger("timmx_core").handlers),
    }


def _of_torch() -> dict[str, Any]:
    backends = torch.backends
    return {
        "torch's random state": _digest(torch.get_rng_state().numpy().tobytes()),
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "autocast": {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")},
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "torch's threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32": {str(p): torch._C._get_fp32_precision_getter(*p) for p in PRECISIONS},
        "cudnn": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "mkldnn": backends.mkldnn.enabled,
        "quantized engine": backends.quantized.engine,
        "hooks of all modules": {
            name: [(key, id(hook)) for key, hook in table.items()]
            for name, table in vars(torch_modules).items()
            if name.startswith("_global_") and isinstance(table, dict)
        },
        "function modes": [
            id(mode)
            for mode in _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        ],
        "dispatch modes": [id(mode) for mode in _get_current_dispatch_mode_stack()],
        "offline": getattr(sys.modules.get("huggingface_hub.constants"), "HF_HUB_OFFLINE", None),
    }


def _descriptor(number: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
