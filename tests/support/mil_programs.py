"""Tiny ML programs: built with the converter, saved, read back by the interpreter and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timmx_coreml.mil import load
from timmx_coreml.storage import write

NAMES = ("x", "y", "z")


def save(
    path: Path,
    build: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    target: str = "iOS16",
    fp16: bool = False,
) -> Path:
    """A program whose inputs are like `arrays`, called x, y, z."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    kinds = {"f": types.fp32, "i": types.int32}
    specs = [mb.TensorSpec(shape=a.shape, dtype=kinds[a.dtype.kind]) for a in arrays]
    # The converter reads the names of the inputs off the signature.
    bodies: dict[int, Callable[..., Any]] = {
        1: lambda x: build(x),  # noqa: PLW0108
        2: lambda x, y: build(x, y),  # noqa: PLW0108
        3: lambda x, y, z: build(x, y, z),  # noqa: PLW0108
    }
    program = mb.program(input_specs=specs, opset_version=ct.target[target])(bodies[len(arrays)])
    precision = ct.precision.FLOAT16 if fp16 else ct.precision.FLOAT32
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[target],
        compute_precision=precision,
        skip_model_load=True,
    )
    write(model, path)
    return path


def run(
    path: Path,
    build: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    target: str = "iOS16",
    fp16: bool = False,
) -> list[np.ndarray]:
    """What the interpreter gives for the saved program."""
    program = load(save(path, build, arrays, target, fp16))
    # The converter may drop an input that does not matter.
    names = {f.name for f in program.inputs}
    given: Mapping[str, Any] = {n: a for n, a in zip(NAMES, arrays, strict=False) if n in names}
    return list(program.run(given).values())


def inferred(build: Callable[..., Any], arrays: Sequence[np.ndarray], target: str) -> Any:
    """What the converter itself computes for constant arguments."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    found: list[Any] = []

    def body(x: Any) -> Any:
        result = build(*arrays)
        found.extend(r.val for r in (result if isinstance(result, (tuple, list)) else [result]))
        return mb.identity(x=x)

    mb.program(input_specs=[mb.TensorSpec(shape=(1,))], opset_version=ct.target[target])(body)
    return found
