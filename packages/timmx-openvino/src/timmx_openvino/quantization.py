"""8 bits, by NNCF from calibration images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx_core.backend import Context, LoadedModel
from timmx_core.errors import ExportError
from timmx_core.toolkit.batches import least_batch
from timmx_openvino.runtime import import_openvino

if TYPE_CHECKING:
    import openvino as ov

ATTENTION = frozenset({"ScaledDotProductAttention", "Softmax"})


def quantize(
    converted: ov.Model, model: LoadedModel, context: Context
) -> tuple[ov.Model, dict[str, Any]]:
    """A model whose layers compute in int8, and what there is to know of it.

    :raises ExportError: NNCF found nothing to quantize.
    """
    import_openvino()
    import nncf
    from nncf.quantization import advanced_parameters as nncf_advanced

    images = list(context.calibration(least_batch(model.inputs[0])))
    attends = _attends(converted, model)
    quantized = nncf.quantize(
        converted,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,  # activations may have a zero point
        subset_size=len(images),
        # Keeps what attention cannot bear in float, and smooths what its layers are given.
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
        advanced_parameters=nncf_advanced.AdvancedQuantizationParameters(
            # On x86 processors without VNNI two products are added in 16 bits, and saturate; with
            # weights of 7 bits they do not. NNCF sees to the first layer only.
            overflow_fix=nncf_advanced.OverflowFix.ENABLE,
            # NNCF would give each channel of a depthwise convolution's input a range of its own,
            # which few images do not show: lite0 from ten of them, on ten others, 16.3 dB and all
            # classes as PyTorch instead of 7.0 dB and eight.
            activations_quantization_params=nncf_advanced.QuantizationParameters(per_channel=False),
        ),
    )
    inserted = sum(op.get_type_name() == "FakeQuantize" for op in quantized.get_ops())
    if not inserted:
        raise ExportError("NNCF finds nothing to quantize in the model", "leave it in fp16")
    return quantized, {"quantizers": inserted, "transformer": attends}


def _attends(converted: ov.Model, model: LoadedModel) -> bool:
    """Whether there is attention in it: a softmax that is not the one behind the head."""
    kinds = [op.get_type_name() for op in converted.get_ops()]
    own = sum(output.role == "probabilities" for output in model.outputs)
    return sum(kind in ATTENTION for kind in kinds) > own
