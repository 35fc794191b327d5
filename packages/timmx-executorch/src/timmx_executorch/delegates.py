"""The delegates that programs are lowered for, as data; their libraries are imported on use."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timmx_core.backend import ExportRequest
from timmx_core.errors import MissingDependency, RequestError

DEFAULT = "xnnpack"


@dataclass(frozen=True)
class Delegate:
    """What runs a part of a program."""

    name: str
    runs: str  # where, in a few words
    precisions: tuple[str, ...]
    partitioner: Callable[[str], Any]  # of ExecuTorch, for a precision
    needs: str = ""  # a module beside ExecuTorch's own


# Each is given the precision, whether or not it can do anything about it.
def _xnnpack(_precision: str) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return XnnpackPartitioner()


def _coreml(precision: str) -> Any:
    import coremltools
    from executorch.backends.apple.coreml.compiler.coreml_preprocess import CoreMLBackend
    from executorch.backends.apple.coreml.partition.coreml_partitioner import CoreMLPartitioner

    kinds = coremltools.precision
    compute = kinds.FLOAT16 if precision == "fp16" else kinds.FLOAT32
    specs = CoreMLBackend.generate_compile_specs(compute_precision=compute)
    return CoreMLPartitioner(compile_specs=specs)


def _vulkan(precision: str) -> Any:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return VulkanPartitioner({"force_fp16": True} if precision == "fp16" else {})


def _webgpu(_precision: str) -> Any:
    from executorch.backends.webgpu.partitioner.partitioner import WebGPUPartitioner

    return WebGPUPartitioner()


DELEGATES = {
    delegate.name: delegate
    for delegate in (
        Delegate("xnnpack", "any CPU", ("fp32", "int8", "dynamic-int8"), _xnnpack),
        Delegate("coreml", "Apple's devices", ("fp32", "fp16"), _coreml, needs="coremltools"),
        Delegate("vulkan", "GPUs with Vulkan, of Android above all", ("fp32", "fp16"), _vulkan),
        Delegate("webgpu", "GPUs through WebGPU", ("fp32",), _webgpu),
    )
}
SDK = "it is lowered with its maker's SDK, which no package brings"
REFUSED = {
    "arm": "its compiler is not part of ExecuTorch's installation",
    "cadence": SDK,
    "cuda": "it is compiled for the GPU of the machine, with the CUDA toolkit",
    "ethos-u": "its compiler is not part of ExecuTorch's installation",
    "mediatek": SDK,
    "mlx": "ExecuTorch's package lacks its files but on a Mac, where it has not been tried",
    "mps": "ExecuTorch has given it up; coreml is for the same devices",
    "neutron": SDK,
    "nxp": SDK,
    "openvino": "it needs a release of OpenVINO's before 2026, with which it has not been tried",
    "qnn": SDK,
    "qualcomm": SDK,
    "samsung": SDK,
    "vgf": "its compiler is not part of ExecuTorch's installation",
}


def parse(text: str) -> tuple[Delegate, ...]:
    """The delegates of `--delegate`, in the order in which they may choose.

    :raises RequestError: names the one that cannot be had, and why.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name in REFUSED:
            raise RequestError(f"no --delegate {name}: {REFUSED[name]}", _there_are())
        if name not in DELEGATES:
            raise RequestError(f"ExecuTorch has no delegate {name!r}", _there_are())
    if len(set(names)) < len(names):
        raise RequestError("--delegate names one of them twice")
    if {"vulkan", "webgpu"} <= set(names):
        raise RequestError(
            "--delegate vulkan,webgpu: both take the same operators, and the second would get none"
        )
    return tuple(DELEGATES[name] for name in names)


def check_request(request: ExportRequest) -> None:
    """Raise for delegates, and pairs of delegate and precision, that there are not.

    :raises RequestError: names what there is.
    :raises MissingDependency: a library of the delegate's is not here.
    """
    chosen = parse(request.options["delegate"])
    precision = request.precision.name
    first = chosen[0]
    if precision not in first.precisions:
        able = [d.name for d in DELEGATES.values() if precision in d.precisions]
        raise RequestError(
            f"--delegate {first.name} has no --precision {precision}, but "
            f"{_list(first.precisions)}",
            f"--precision {precision} goes with --delegate {_list(able)}",
        )
    for delegate in chosen:
        if delegate.needs and importlib.util.find_spec(delegate.needs) is None:
            raise MissingDependency(
                f"--delegate {delegate.name} needs {delegate.needs}, which is not installed",
                f"pip install {delegate.needs}, or leave {delegate.name} out",
            )


def _there_are() -> str:
    return f"there are: {', '.join(DELEGATES)}"


def _list(words: tuple[str, ...] | list[str]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]
