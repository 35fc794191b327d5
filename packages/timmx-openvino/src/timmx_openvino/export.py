"""One export, from a loaded model to an IR in staging."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import (
    Artifact,
    Comparison,
    Context,
    Dimension,
    ExportRequest,
    LoadedModel,
)
from timmx_core.errors import ExportError
from timmx_core.toolkit.comparison import FLOAT_FLOOR_DB
from timmx_core.toolkit.fx_nodes import module_of
from timmx_openvino.preprocessing import add_preprocessing
from timmx_openvino.runtime import cause, import_openvino

if TYPE_CHECKING:
    import openvino as ov
    import torch

# How the frontend names what it does not know: "No conversion rule found for operations: aten.x".
UNKNOWN = re.compile(
    r"(?:No conversion rule found for operations?|Unsupported operations?):? *(.+)"
)


def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
    """Convert, lower the precision, write.

    :raises ExportError: names the operator that has no counterpart, and its module.
    """
    ov = import_openvino()
    precision = request.precision.name
    with context.stage("capture"):
        program = model.capture()
    with context.stage("convert to OpenVINO"):
        converted = convert(program, model)
    report: dict[str, Any] = {}
    comparisons = []
    if precision != "fp32":
        plain = context.staging / "float" / "float.xml"
        plain.parent.mkdir()
        # Preprocessed as the file will be, so that the same images are given to both.
        write(add_preprocessing(converted.clone(), model), plain, half=False)
        comparisons.append(Comparison("float file", got=plain, floor_db=FLOAT_FLOOR_DB))
    if precision == "int8":
        from timmx_openvino.quantization import quantize

        with context.stage("quantize"):
            converted, report = quantize(converted, model, context)
    with context.stage("write the IR"):
        finished = add_preprocessing(converted, model)
        operators = write(finished, context.primary, half=precision == "fp16")
    return Artifact(
        context.primary,
        model.file_inputs,
        model.file_outputs,
        companions=(context.primary.with_suffix(".bin"),),
        comparisons=tuple(comparisons),
        report={
            "nodes": sum(operators.values()),
            "operators": operators,
            "preprocessing": sorted(model.absorb),
            "openvino": ov.__version__.partition("-")[0],
            **report,
        },
    )


def convert(program: torch.export.ExportedProgram, model: LoadedModel) -> ov.Model:
    """The program as OpenVINO's, with the names and sizes of the model's ports.

    :raises ExportError: names what cannot be converted.
    """
    ov = import_openvino()
    try:
        converted = ov.convert_model(program)
    except Exception as error:  # the frontend raises kinds of its own
        raise _explained(error, program) from error
    port, spec = converted.inputs[0], model.inputs[0]
    converted.reshape({port: ov.PartialShape([_dimension(d) for d in spec.shape])})
    port.get_tensor().set_names({spec.name})
    for output, declared in zip(converted.outputs, model.outputs, strict=True):
        output.get_tensor().set_names({declared.name})
    return converted


def _dimension(dimension: Dimension) -> Any:
    ov = import_openvino()
    if isinstance(dimension, int):
        return ov.Dimension(dimension)
    least, _, most = dimension
    return ov.Dimension(least, -1 if most is None else most)


def _explained(error: Exception, program: torch.export.ExportedProgram) -> ExportError:
    """The operators that the frontend does not know, each with a module that uses it."""
    found = UNKNOWN.search(str(error))
    if found is None:
        return ExportError(f"OpenVINO cannot convert the model: {cause(error)}")
    names = {name.strip().replace("::", ".") for name in found[1].split(",")}
    # It takes composite operators apart, and names the parts.
    for node in (*program.graph.nodes, *program.run_decompositions().graph.nodes):
        target = str(node.target)
        if any(target == name or target.startswith(f"{name}.") for name in names):
            return ExportError(
                f"OpenVINO has no counterpart of {target}, used in {module_of(node)}"
            )
    return ExportError(f"OpenVINO has no counterpart of {', '.join(sorted(names))[:300]}")


def write(converted: ov.Model, path: Path, *, half: bool) -> dict[str, int]:
    """Write the pair of files.

    :return: how often each kind of operator occurs.
    """
    operators = _name_nodes(converted)
    import_openvino().save_model(converted, path, compress_to_fp16=half)
    return operators


def _name_nodes(converted: ov.Model) -> dict[str, int]:
    """Names that do not depend on what this process has converted before; how often each occurs."""
    counts: Counter[str] = Counter()
    converted.set_friendly_name("model")
    for node in converted.get_ordered_ops():
        kind = node.get_type_name()
        node.set_friendly_name(f"{kind}_{counts[kind]}")
        counts[kind] += 1
    return dict(sorted(counts.items()))
