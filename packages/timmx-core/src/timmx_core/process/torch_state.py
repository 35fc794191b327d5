"""PyTorch's settings while timmx computes: those of a new process, whatever the caller has set.

Mixed precision, another default dtype or device, TensorFloat-32, hooks of all modules and modes
that stand between a call and its operator would otherwise go into the reference or into the file,
and the file would be blamed for it. Importing this imports no torch.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from timmx_core.errors import RequestError, first_line
from timmx_core.process.interrupts import import_whole

AUTOCAST = ("cpu", "cuda", "mps", "xpu", "hpu")
# The whole before its parts: a part without a setting of its own has that of the whole.
PRECISIONS = (
    ("generic", "all"),
    ("cuda", "all"),
    ("cuda", "matmul"),
    ("mkldnn", "all"),
    ("mkldnn", "matmul"),
    ("mkldnn", "conv"),
    ("mkldnn", "rnn"),
)
# Those that are on in a new process.
CUDNN_PRECISIONS = (("cuda", "conv"), ("cuda", "rnn"))


@contextmanager
def fresh(device: str = "cpu") -> Iterator[None]:
    """As in a new process, in full precision; what was set before, and random states, come back.

    Random numbers of PyTorch, NumPy and Python begin anew, from the same seed each time.

    :param device: that PyTorch computes on within.
    :raises RequestError: the caller has a mode on that cannot be taken off.
    """
    import_whole("torch")
    import torch

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        on_cpu = _on_cpu()  # a mode may say so
        stack.enter_context(_without_hooks())
        stack.enter_context(_without_modes())
        stack.enter_context(_random_states())
        stack.enter_context(full_precision(device))
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if not on_cpu:
            stack.enter_context(torch.device("cpu"))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        yield


def seed(number: int) -> None:
    """Seed what the weights of a model are drawn from, which is on the CPU.

    `torch.manual_seed` would seed accelerators as well, or note down to do so once they are used.
    """
    import torch

    torch.default_generator.manual_seed(number)


@contextmanager
def _without_hooks() -> Iterator[None]:
    """Those that run for every module of the process, `register_module_forward_hook` and its like.

    Their tables are emptied and filled again and stay the same objects: handles know them.
    """
    from torch.nn.modules import module as modules

    tables = [
        table
        for name, table in vars(modules).items()
        if name.startswith("_global_") and isinstance(table, dict)
    ]
    before = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)


@contextmanager
def _without_modes() -> Iterator[None]:
    """Neither a `TorchFunctionMode` nor a `TorchDispatchMode` sees what is computed.

    :raises RequestError: one of the latter cannot be taken off.
    """
    from torch._C import (
        _len_torch_function_stack,
        _pop_torch_function_stack,
        _push_on_torch_function_stack,
    )
    from torch.utils._python_dispatch import _disable_current_modes

    functions = [_pop_torch_function_stack() for _ in range(_len_torch_function_stack())]
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(_disable_current_modes())
            except Exception as error:
                raise RequestError(
                    f"a TorchDispatchMode is on that cannot be taken off: {first_line(error)}",
                    "call timmx outside of it",
                ) from error
            yield
    finally:
        for mode in reversed(functions):
            _push_on_torch_function_stack(mode)


def _on_cpu() -> bool:
    import torch

    with suppress(RuntimeError, AssertionError):  # a default device that is not there
        return torch.get_default_device().type == "cpu"
    return False


@contextmanager
def _random_states() -> Iterator[None]:
    import numpy as np
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is to be kept)
    with torch.random.fork_rng(devices, device_type="cuda"):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def full_precision(device: str = "cpu") -> Iterator[None]:
    """Float32 means float32: neither TensorFloat-32 nor bfloat16 in convolutions and products.

    :param device: that is computed on; cuDNN is left alone where that is not CUDA.
    """
    with ExitStack() as stack:
        stack.enter_context(_older_setting_off(_products(), "highest"))
        if device.startswith("cuda"):
            stack.enter_context(_older_setting_off(_convolutions(), False))
        stack.enter_context(_settings_off(device))
        yield


def _products() -> tuple[Any, Any]:
    import torch

    return torch.get_float32_matmul_precision, torch.set_float32_matmul_precision


def _convolutions() -> tuple[Any, Any]:
    from torch.backends import cudnn

    def put(value: bool) -> None:
        cudnn.allow_tf32 = value

    return lambda: cudnn.allow_tf32, put


@contextmanager
def _older_setting_off(setting: tuple[Any, Any], off: Any) -> Iterator[None]:
    """PyTorch has two settings for one thing, and complains of those that contradict each other.

    Setting the older one sets the newer one, too. Where they contradict each other already, the
    older one has no say.
    """
    read, write = setting
    try:
        before = read()
    except RuntimeError:
        yield
        return
    if before == off:
        yield
        return
    write(off)
    try:
        yield
    finally:
        write(before)


@contextmanager
def _settings_off(device: str) -> Iterator[None]:
    import torch

    # Those of `torch.backends.*.fp32_precision`, some of whose setters there set another.
    read: Any = torch._C._get_fp32_precision_getter
    write: Any = torch._C._set_fp32_precision_setter
    pairs = PRECISIONS + (CUDNN_PRECISIONS if device.startswith("cuda") else ())
    changed: list[tuple[str, str, str]] = []
    try:
        for backend, operation in pairs:
            before = read(backend, operation)
            if before not in ("none", "ieee"):
                write(backend, operation, "none")
                changed.append((backend, operation, before))
        yield
    finally:
        for place in reversed(changed):
            write(*place)
