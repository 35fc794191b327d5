"""From a captured program to the bytes of a `.pte` file, and what became of its operators."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from timmx_core.backend import TensorSpec
from timmx_core.errors import ExportError, TimmxError, first_line
from timmx_core.toolkit.fx_nodes import module_of, nodes_in
from timmx_executorch import decompositions
from timmx_executorch.delegates import Delegate
from timmx_executorch.program import KEY, PLACEHOLDER

PORTS = "timmx_ports"  # a method that gives the names of inputs and outputs, as JSON
METHOD = "forward"
# Bookkeeping of graphs, and no operators.
NO_OPERATORS = ("getitem", "executorch_call_delegate", "sym_size", "alloc")
RECURRENT = re.compile(r"aten\.(lstm|gru|rnn_tanh|rnn_relu)\.input")
MOST_STEPS = 400  # some 9,000 operators; partitioners keep all that follows from each of them


@dataclass(frozen=True)
class Lowered:
    """A file that was written."""

    report: dict[str, Any]
    notes: list[str]


def lower(
    program: torch.export.ExportedProgram,
    delegates: Sequence[Delegate],
    precision: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    path: Path,
) -> Lowered:
    """Lower a program, and write it.

    :param delegates: in the order in which they may choose.
    :raises ExportError: names the operator that cannot be lowered, and its module.
    :raises OSError: the disk is full, ...
    """
    from executorch.exir import to_edge_transform_and_lower

    check_recurrences(program)
    ports = {"inputs": [i.name for i in inputs], "outputs": [o.name for o in outputs]}
    try:
        if [d.name for d in delegates] == ["xnnpack"]:
            program = decompositions.apply(program)
        with _reasons() as reasons, _no_needless_patterns(program):
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[d.partitioner(precision) for d in delegates],
                constant_methods={PORTS: json.dumps(ports)},
            )
        # Before the next step, which changes the graph.
        counts = _counts(edge.exported_program(), delegates)
        portable = _portable(edge.exported_program().graph, reasons)
        edge._named_data_store.add_named_data(KEY, PLACEHOLDER)
        finished = edge.to_executorch()
    except (TimmxError, OSError):
        raise
    except Exception as error:
        raise explain(error, program) from error
    with path.open("wb") as file:
        finished.write_to_file(file)
    plan = next(p for p in finished.executorch_program.execution_plan if p.name == METHOD)
    planned = sum(plan.non_const_buffer_sizes)
    report = {
        "delegates": counts,
        "portable": portable,
        "planned_memory_mib": round(planned / 2**20, 2),
    }
    return Lowered(report, describe(report))


def check_recurrences(program: torch.export.ExportedProgram) -> None:
    """Refuse what would take all of the memory: partitioners want it with the square of the steps.

    :raises ExportError: names the first recurrence and its module.
    """
    nodes = [n for n in program.graph.nodes if RECURRENT.fullmatch(str(n.target))]
    steps = sum(_steps(node) for node in nodes)
    if steps > MOST_STEPS:
        raise ExportError(
            f"ExecuTorch cannot lower {_operator(nodes[0])}, used in {module_of(nodes[0])}: over "
            f"{MOST_STEPS} steps ({steps}) take tens of GB of memory",
            "it writes recurrences out step by step; timmx run-all shows which formats do not",
        )


def _steps(node: torch.fx.Node) -> int:
    """How often a recurrence is applied: (input, hx, weights, has_biases, layers, ...)."""
    layers, _, _, bidirectional, batch_first = node.args[4:9]
    length = node.args[0].meta["val"].shape[1 if batch_first else 0]  # type: ignore[union-attr]
    return int(length) * int(layers) * (2 if bidirectional else 1)  # type: ignore[arg-type]


def describe(report: dict[str, Any]) -> list[str]:
    """A report in lines for a person."""
    lines = [f"planned memory: {report['planned_memory_mib']} MiB"]
    for name, found in report["delegates"].items():
        parts = "1 part" if found["parts"] == 1 else f"{found['parts']} parts"
        lines.append(f"{name}: {found['operators']} operators in {parts}")
    for row in report["portable"]:
        why = f": {row['reason']}" if row["reason"] else ""
        lines.append(f"portable kernel: {row['count']} {row['operator']}{why}")
    return lines


def _counts(
    program: torch.export.ExportedProgram, delegates: Sequence[Delegate]
) -> dict[str, dict[str, int]]:
    """What each delegate took: parts, and operators in them."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    names = {"XnnpackBackend": "xnnpack", "CoreMLBackend": "coreml", "VulkanBackend": "vulkan"}
    if any(d.name == "webgpu" for d in delegates):
        names["VulkanBackend"] = "webgpu"  # whose programs are Vulkan's
    counts = {d.name: {"parts": 0, "operators": 0} for d in delegates}
    for _, lowered, _ in get_lowered_submodules(program.graph_module):
        row = counts[names[lowered.backend_id]]
        row["parts"] += 1
        row["operators"] += sum(is_operator(node) for node in lowered.original_module.graph.nodes)
    return counts


def _portable(graph: torch.fx.Graph, reasons: dict[str, str]) -> list[dict[str, Any]]:
    """Operators that no delegate took, with the reason where one was given."""
    found = Counter(_operator(node) for node in graph.nodes if is_operator(node))
    return [
        {"operator": name, "count": count, "reason": reasons.get(name, "")}
        for name, count in sorted(found.items())
    ]


def is_operator(node: torch.fx.Node) -> bool:
    """Whether a node computes something."""
    name = str(node.target)
    return node.op == "call_function" and not any(word in name for word in NO_OPERATORS)


def _operator(node: torch.fx.Node) -> str:
    """ "aten.expand_copy.default"."""
    names = (getattr(node.target, "__name__", ""), str(node.target))
    found = (re.search(r"[a-z_]+\.\w+\.\w+", name) for name in names)
    return next((match[0] for match in found if match), names[0] or names[1])


@contextmanager
def _no_needless_patterns(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Keep XNNPACK from looking for attention and bilinear resizing where there are none.

    It exports and lowers models of its own to know what they look like once taken apart, which is
    a third of the time in which resnet18 is lowered.
    """
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    present = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    with ExitStack() as stack:
        if not any("scaled_dot_product_attention" in name for name in present):
            stack.enter_context(mock.patch.object(sdpa, "get_graphs", list))
        if not any("upsample_bilinear2d" in name for name in present):
            stack.enter_context(mock.patch.object(bilinear_2d, "get_graphs_dict", dict))
        yield


@contextmanager
def _reasons() -> Iterator[dict[str, str]]:
    """Operator to why a partitioner left it, which they tell their log alone."""
    found: dict[str, str] = {}

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            node = getattr(record.msg, "node", None)
            if isinstance(node, torch.fx.Node):
                found.setdefault(_operator(node), str(getattr(record.msg, "reason", "")))

    logger = logging.getLogger("executorch.backends")
    before = logger.level, logger.propagate
    listener = Listener(logging.DEBUG)
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(listener)
        logger.level, logger.propagate = before


def explain(error: Exception, program: torch.export.ExportedProgram) -> ExportError:
    """A failure of ExecuTorch's in terms of the model."""
    text = first_line(error, 300)
    missing = re.findall(r"aten::(\w+)", str(error)) if "out variant" in str(error) else []
    if missing:
        name = missing[0].removesuffix("_copy")
        node = next((n for n in program.graph.nodes if f"aten.{name}." in str(n.target)), None)
        place = f", used in {module_of(node)}" if node is not None else ""
        return ExportError(f"ExecuTorch has no kernel for aten.{missing[0]}{place}")
    nodes = list(nodes_in(error))
    if nodes:
        node = nodes[-1]
        return ExportError(
            f"ExecuTorch cannot lower {_operator(node)}, used in {module_of(node)}: {text}"
        )
    return ExportError(f"ExecuTorch cannot lower the model: {type(error).__name__}: {text}")
