"""The machine's first GPU, as the driver describes it. Loads neither torch nor CUDA's runtime."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

MAJOR, MINOR = 75, 76  # attributes of a device: its compute capability
LONGEST_NAME = 256


@dataclass(frozen=True)
class Gpu:
    """One card and its driver."""

    name: str
    capability: tuple[int, int]
    cuda: str  # the newest CUDA that the driver runs, "13.0"
    driver: str  # "580.95.05", or empty where the driver does not tell

    @property
    def target(self) -> str:
        """Its compute capability as a target: "sm86"."""
        return "sm{}{}".format(*self.capability)


class NoGpuError(Exception):
    """There is none; the message says in what way."""


def find() -> Gpu:
    """The first one.

    :raises NoGpuError: no driver, or no card.
    """
    cuda = _library("libcuda.so.1", "nvcuda.dll")
    if cuda is None:
        raise NoGpuError("there is no NVIDIA driver here")
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise NoGpuError("the NVIDIA driver finds no GPU here")
    name = ctypes.create_string_buffer(LONGEST_NAME)
    numbers = []
    failed = cuda.cuDeviceGet(ctypes.byref(device), 0)
    failed = failed or cuda.cuDeviceGetName(name, LONGEST_NAME, device)
    failed = failed or cuda.cuDriverGetVersion(ctypes.byref(version))
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        failed = failed or cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(value.value)
    if failed:
        raise NoGpuError(f"the NVIDIA driver does not describe the GPU (CUDA error {failed})")
    major, rest = divmod(version.value, 1000)
    return Gpu(
        name.value.decode("utf-8", "replace"),
        (numbers[0], numbers[1]),
        f"{major}.{rest // 10}",
        _driver_version(),
    )


def _driver_version() -> str:
    management = _library("libnvidia-ml.so.1", "nvml.dll")
    if management is None or management.nvmlInit_v2():
        return ""
    text = ctypes.create_string_buffer(LONGEST_NAME)
    failed = management.nvmlSystemGetDriverVersion(text, LONGEST_NAME)
    management.nvmlShutdown()
    return "" if failed else text.value.decode("ascii", "replace")


def _library(linux: str, windows: str) -> Any:
    try:
        return ctypes.CDLL(windows if sys.platform == "win32" else linux)
    except OSError:
        return None
