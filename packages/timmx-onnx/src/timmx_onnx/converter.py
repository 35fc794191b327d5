"""From torch's exported program to an ONNX graph in memory. Everything here is heavy to import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from timmx_core.errors import ExportError, first_line
from timmx_core.toolkit.fx_nodes import module_of, nodes_in

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

BATCH = "batch"


def convert(
    program: torch.export.ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> ir.Model:
    """Convert a captured program; a dynamic first dimension of the inputs is named "batch".

    :raises ExportError: names the operator that has no translation, and the module it stands in.
    """
    import torch

    try:
        onnx_program = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch.onnx raises whatever its passes raise
        raise explain(error) from error
    if onnx_program is None:
        raise ExportError("torch.onnx gave no model")
    _name_batch(onnx_program)
    model = onnx_program.model
    _check_opset(model, opset)
    _check_ports(model, inputs, outputs)
    strip(model)
    return model


def operators(model: ir.Model) -> dict[str, int]:
    """How often each operator occurs, most frequent first."""
    counts = Counter(
        f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        for node in model.graph.all_nodes()
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def strip(model: ir.Model) -> None:
    """Take out what describes the machine that exported: stack traces, paths, torch's names.

    It makes up half of a small graph, and two checkouts would give two different files.
    """
    model.metadata_props.clear()
    model.doc_string = None
    for graph in (model.graph, *model.graph.subgraphs()):
        _strip_graph(graph)
    for function in model.functions.values():
        function.metadata_props.clear()
        function.doc_string = None
        _strip_graph(function.graph)
        for graph in function.graph.subgraphs():
            _strip_graph(graph)


def _strip_graph(graph: ir.Graph) -> None:
    graph.metadata_props.clear()
    graph.doc_string = None
    for value in (*graph.inputs, *graph.initializers.values()):
        _strip_value(value)
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            _strip_value(value)


def _strip_value(value: ir.Value) -> None:
    value.metadata_props.clear()
    value.doc_string = None


def _name_batch(onnx_program: torch.onnx.ONNXProgram) -> None:
    import onnx_ir

    names: dict[str | ir.SymbolicDim, str] = {}
    for value in onnx_program.model.graph.inputs:
        first = value.shape[0] if value.shape else None
        if isinstance(first, onnx_ir.SymbolicDim) and first.value is not None:
            names[first.value] = BATCH
    if names:
        onnx_program.rename_axes(names)


def _check_opset(model: ir.Model, opset: int) -> None:
    """torch.onnx writes another opset where it fails to convert to the one asked for."""
    written = model.graph.opset_imports.get("")
    if written != opset:
        raise ExportError(
            f"torch.onnx wrote opset {written}, where {opset} was asked for",
            "the model has an operator that cannot be converted; try another --opset",
        )


def _check_ports(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    got = [value.name for value in model.graph.inputs]
    if got != list(inputs):
        raise ExportError(f"the ONNX graph takes {got}, not {list(inputs)}")
    got = [value.name for value in model.graph.outputs]
    if got != list(outputs):
        raise ExportError(f"the ONNX graph gives {got}, not {list(outputs)}")


def explain(error: BaseException) -> ExportError:
    """What torch.onnx could not translate, from its chain of exceptions."""
    from torch.onnx import errors

    chain = list(_causes(error))
    node = next((n for e in reversed(chain) for n in nodes_in(e)), None)
    if node is None:
        kind = "" if isinstance(chain[-1], errors.OnnxExporterError) else type(chain[-1]).__name__
        detail = ": ".join(part for part in (kind, first_line(chain[-1], 300)) if part)
        return ExportError(f"torch.onnx cannot convert the model: {detail}")
    # Before its decomposition, where there was one: "aten.digamma", not "prims.digamma".
    operator = str(node.meta.get("original_aten") or node.target)
    if any(type(e).__name__ == "DispatchError" for e in chain):
        what = f"ONNX has no counterpart of {operator}"
    else:
        what = f"torch.onnx cannot translate {operator} ({first_line(chain[-1], 300)})"
    return ExportError(f"{what}, used in {module_of(node)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
