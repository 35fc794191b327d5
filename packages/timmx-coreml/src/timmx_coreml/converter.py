"""From a captured model to an `MLModel`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Context, Dimension, LoadedModel, TensorSpec
from timmx_core.errors import ExportError, TimmxError
from timmx_core.toolkit.frozen_values import trace_and_find
from timmx_core.toolkit.model import unique_labels
from timmx_coreml.request import Sizes

if TYPE_CHECKING:
    import torch

OPEN_BATCH = 128
"""The greatest batch size where none was asked for: an ML program must have one."""


@dataclass(frozen=True)
class Plan:
    """All that a conversion needs beside the captured model."""

    kind: str  # "mlprogram" or "neuralnetwork"
    target: str | None  # "iOS16"; None for a neuralnetwork
    input: TensorSpec  # of the module that is captured, NCHW or NHWC
    outputs: tuple[TensorSpec, ...]
    image: bool
    labels: tuple[str, ...] | None
    sizes: Sizes


@dataclass
class Captured:
    """A model as the converter takes it. `how`: "export" or "trace"."""

    program: Any
    how: str
    failure: str = ""  # why the other way was not taken
    frozen: tuple[str, ...] = ()  # where tracing froze values of the example


def capture(
    model: LoadedModel, module: torch.nn.Module, how: str, flexible_sizes: bool
) -> Captured:
    """Capture with `torch.export`, or by tracing.

    Sizes are left open by tracing alone: it records how sizes are computed from the input's.

    :raises ExportError: neither the model nor its sizes allow it.
    """
    if how == "trace" or flexible_sizes:
        program, places = _trace(model, module)
        return Captured(program, "trace", frozen=places)
    return Captured(model.capture(module, decompositions={}), "export")


def _trace(model: LoadedModel, module: torch.nn.Module) -> tuple[Any, tuple[str, ...]]:
    import torch

    jit: Any = torch.jit
    try:
        with torch.no_grad():
            # That numbers of shapes become constants is what a fixed size is about; where sizes
            # are open, the file is run at them.
            return trace_and_find(
                lambda: jit.trace(module, model.example_inputs, check_trace=False)
            )
    except Exception as error:
        raise ExportError(f"torch.jit.trace cannot capture the model: {_first(error)}") from error


def convert(captured: Captured, plan: Plan, compute: Any, context: Context) -> Any:
    """Convert a captured model.

    :param compute: the converter's compute precision; None leaves it to the kind of model.
    :return: an `MLModel`, whose files lie below staging.
    :raises ExportError: names the operator that the converter does not know, and its module.
    """
    import coremltools as ct

    from timmx_coreml import fixes

    fixes.register()
    arguments: dict[str, Any] = {
        "inputs": [_port(plan)],
        "outputs": [_output(spec, plan) for spec in plan.outputs],
        "convert_to": plan.kind,
        "skip_model_load": True,
    }
    if plan.target:
        arguments["minimum_deployment_target"] = ct.target[plan.target]
    if compute is not None:
        arguments["compute_precision"] = compute
    if plan.labels:
        arguments["classifier_config"] = ct.ClassifierConfig(
            unique_labels(plan.labels), predicted_probabilities_output=plan.outputs[0].name
        )
    with scratch(context.staging):
        try:
            return ct.convert(captured.program, **arguments)
        except TimmxError:
            raise
        except Exception as error:
            if "FileWriter" in str(error):  # it does not say why it could not write
                check_room(context.staging, _size_of(captured.program))
            raise _explained(error, captured) from error


def check_room(folder: Path, size: int) -> None:
    """Whether so many bytes can be written to a folder.

    :raises OSError: the disk is full.
    """
    chunk = bytes(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        for start in range(0, size, len(chunk)):
            file.write(chunk[: size - start])
        file.flush()


def _size_of(program: Any) -> int:
    """Bytes of the weights of an exported program or a traced module."""
    held = program.state_dict() if callable(program.state_dict) else program.state_dict
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


@contextmanager
def scratch(staging: Path) -> Iterator[None]:
    """Let the converter's temporary folders lie in staging, which core always removes."""
    folder = staging / "converter"
    folder.mkdir(exist_ok=True)
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _port(plan: Plan) -> Any:
    import coremltools as ct
    import numpy as np

    shape = _shape(plan)
    if not plan.image:
        return ct.TensorType(name=plan.input.name, shape=shape, dtype=np.float32)
    gray = plan.input.shape[1] == 1
    layout = ct.colorlayout.GRAYSCALE if gray else ct.colorlayout.RGB
    return ct.ImageType(name=plan.input.name, shape=shape, color_layout=layout)


def _output(spec: TensorSpec, plan: Plan) -> Any:
    import coremltools as ct
    import numpy as np

    if plan.kind == "neuralnetwork":
        return ct.TensorType(name=spec.name)
    return ct.TensorType(name=spec.name, dtype=np.float32)


def _shape(plan: Plan) -> Any:
    import coremltools as ct

    shape = plan.input.shape
    if plan.sizes.listed:
        own = [int(d) for d in shape]  # type: ignore[arg-type]
        shapes = [_with_size(own, plan.input.layout, s) for s in plan.sizes.listed]
        return ct.EnumeratedShapes(shapes=[s for s in shapes if s != own] + [own], default=own)
    if plan.sizes.range:
        shape = sized(plan.input, plan.sizes).shape
    if all(isinstance(d, int) for d in shape):
        return shape
    return ct.Shape(shape=[_range(d) for d in shape])


def _range(dimension: Dimension) -> Any:
    import coremltools as ct

    if isinstance(dimension, int):
        return dimension
    least, default, most = dimension
    return ct.RangeDim(
        lower_bound=least, upper_bound=most or max(OPEN_BATCH, default), default=default
    )


def _with_size(shape: Sequence[int], layout: str, size: tuple[int, int]) -> list[int]:
    first = 1 if layout == "NHWC" else 2
    return [*shape[:first], *size, *shape[first + 2 :]]


def sized(spec: TensorSpec, sizes: Sizes) -> TensorSpec:
    """The port with the height and width that `sizes` allow.

    :raises RequestError: where the model's own size is not among them.
    """
    from dataclasses import replace

    from timmx_core.errors import RequestError

    if not sizes:
        return spec
    first = 1 if spec.layout == "NHWC" else 2
    own = spec.shape[first : first + 2]
    pairs = sizes.range or sizes.listed
    dimensions: list[Dimension] = []
    for axis, default in enumerate(own):
        assert isinstance(default, int)
        values = [pair[axis] for pair in pairs]
        if sizes.listed:
            values.append(default)
        elif not min(values) <= default <= max(values):
            raise RequestError(f"the model's own size {own[0]}x{own[1]} is outside --size-range")
        low, high = min(values), max(values)
        dimensions.append(default if low == high else (low, default, high))
    return replace(spec, shape=(*spec.shape[:first], *dimensions, *spec.shape[first + 2 :]))


def _explained(error: Exception, captured: Captured) -> ExportError:
    text = str(error)
    match = re.search(r"Unsupported fx node ([\w.]+)", text) or re.search(
        r"convert function for op '([\w.]+)' not implemented", text
    )
    deep = re.search(
        r'Layer "(\w+?)(?:_cast_fp\d+)?", with type "(\w+)", outputs a rank (\d+)', text
    )
    if deep is not None:
        where = _module_of(deep[1], captured.program)
        return ExportError(
            f"Core ML has no tensors of more than 5 dimensions, and operator {deep[1]} "
            f"({deep[2]}) makes one of {deep[3]}" + (f" in {where}" if where else "")
        )
    if match is None:
        return ExportError(f"coremltools cannot convert the model: {_first(error)}")
    where = _module_of(match[1], captured.program)
    place = f" in {where}" if where else ""
    return ExportError(f"coremltools does not know the operator {match[1]}{place}")


def _module_of(name: str, program: Any) -> str:
    """The module that an operator of an exported program stands in; empty where unknown."""
    for node in _nodes(program):
        stack = node.meta.get("nn_module_stack")
        if stack and name in (node.name, _operator(node)):
            path, kind = list(stack.values())[-1]
            return f"{path} ({str(kind).rpartition('.')[2]})"
    return ""


def _nodes(program: Any) -> list[Any]:
    """The nodes of an exported program; none of a traced one, which names no modules."""
    nodes = getattr(getattr(program, "graph", None), "nodes", [])
    return [] if callable(nodes) else list(nodes)


def _operator(node: Any) -> str:
    target = str(getattr(node, "target", ""))  # "aten.fft_rfft2.default"
    return target.removeprefix("aten.").partition(".")[0]


def _first(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": ")
