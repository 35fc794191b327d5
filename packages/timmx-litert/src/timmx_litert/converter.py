"""From torch's exported program to a LiteRT flatbuffer. Everything here is heavy to import."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from timmx_core.errors import ExportError, first_line
from timmx_core.toolkit.fx_nodes import module_of, nodes_in

if TYPE_CHECKING:
    import torch

SIGNATURE = "serving_default"
LARGE = 512  # pixels
PLACE = re.compile(r"\S+\.py:\d+:\d+: ")  # where a converter found something, in torch's own files
# Read when the libraries are imported: no progress on stdout, no search for accelerators.
SETTINGS = {"LITERT_TORCH_SHOW_PROGRESS": "n", "JAX_PLATFORMS": "cpu"}


def import_litert_torch() -> Any:
    """litert-torch, kept from printing and from looking for devices, unless the user has set it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import litert_torch

    return litert_torch


def convert(
    program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]
) -> bytes:
    """A flatbuffer with one signature, whose ports have the names given.

    :raises ExportError: names the operator that has no translation, and the module it stands in.
    """
    import_litert_torch()
    try:
        return _export(_lower(_prepare(program)), inputs, outputs)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # litert-torch raises whatever its passes raise
        raise explain(error) from error


def _prepare(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Decomposed, with channels last where convolutions are, as `litert_torch.convert` does it."""
    import torch
    from litert_torch import fx_infra
    from litert_torch._convert import core

    aten = torch.ops.aten
    table = fx_infra.decomp.pre_convert_decomp()
    table[aten.mean.dim] = _mean_in_two
    if any(node.target == aten.conv1d.default for node in program.graph.nodes):
        # By itself: the other table has a convolution of any rank first.
        program = program.run_decompositions({aten.conv1d.default: _as_linear})
    program = fx_infra.graph_utils.reset_from_node_meta(program)
    program = fx_infra.safe_run_decompositions(program, table, can_skip=False)
    prepared: torch.export.ExportedProgram = core._run_convert_passes(program)
    return prepared


def _mean_in_two(
    x: torch.Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """The mean of a large image as one of its rows' means.

    LiteRT adds up one pixel after the other, and loses half of the digits where many are alike.
    """
    if x.dim() != 4 or dtype is not None or sorted(d % 4 for d in dim or ()) != [2, 3]:
        return NotImplemented
    height, width = x.shape[2:]
    if height * width < LARGE:
        return NotImplemented
    return x.mean(3, keepdim=keepdim).mean(2, keepdim=keepdim)


def _as_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),  # noqa: ARG001 - the operator has it
    groups: int = 1,
) -> Any:
    """A pointwise convolution of vectors, of which LiteRT makes a product of the wrong shape."""
    import torch

    if weight.shape[2] != 1 or (list(stride), list(padding), groups) != ([1], [0], 1):
        return NotImplemented
    return torch.nn.functional.linear(x.transpose(1, 2), weight[:, :, 0], bias).transpose(1, 2)


def _lower(program: torch.export.ExportedProgram) -> Any:
    from litert_torch.backend import export, inline_consts

    context = inline_consts.InlineConstsContext(enable_resource_constants=False)
    return export.exported_program_to_mlir(program, lowering_context_plugins=[context])


def _export(lowered: Any, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    from litert_converter.mlir import passmanager
    from litert_converter.mlir._mlir_libs import converter_api_ext as api

    _check_count(
        "takes", len(inputs), sum(s.input_spec.is_user_input for s in lowered.input_signature)
    )
    _check_count("gives", len(outputs), len(lowered.output_signature))
    api.set_signature(
        lowered.module.operation,
        signature_name=SIGNATURE,
        input_names=list(inputs),
        output_names=list(outputs),
    )
    config = api.ConvertToTFLConfig()
    config.model_origin_framework = "PYTORCH"
    config.unsafe_fuse_dynamic_shaped_broadcast = True
    config.canonicalizing_inf_as_min_max_float = False  # litert-torch has clamped them
    config.enable_x64 = False
    with lowered.ctx:
        module = api.merge_modules([lowered.module])
        api.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
        data: bytes = api.export_flatbuffer_to_bytes(getattr(module, "operation", module))
    return data


def _check_count(verb: str, wanted: int, got: int) -> None:
    if wanted != got:
        raise ExportError(f"the LiteRT graph {verb} {got} tensors, not {wanted}")


def explain(error: BaseException) -> ExportError:
    """What litert-torch could not translate."""
    if isinstance(error, ExportError):
        return error
    node = next(iter(reversed(list(nodes_in(error)))), None)
    if node is None:
        said = PLACE.sub("", _kind_and_line(error))
        return ExportError(f"litert-torch cannot convert the model: {said}")
    operator = str(node.meta.get("original_aten") or node.target)
    if "Lowering not found" in str(error):
        what = f"LiteRT has no counterpart of {operator}"
    else:
        what = f"litert-torch cannot translate {operator} ({_kind_and_line(error)})"
    return ExportError(f"{what}, used in {module_of(node)}")


def _kind_and_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error, 300)}"
