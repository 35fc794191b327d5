"""What is asked of the input, as steps of OpenVINO's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx_core.backend import LoadedModel
from timmx_openvino.runtime import import_openvino

if TYPE_CHECKING:
    import openvino as ov


def add_preprocessing(converted: ov.Model, model: LoadedModel) -> ov.Model:
    """Put in what the model leaves to the format; the model as it is where that is nothing."""
    if not model.absorb:
        return converted
    ov = import_openvino()
    from openvino.preprocess import PrePostProcessor

    processor = PrePostProcessor(converted)
    port = processor.input(0)
    port.model().set_layout(ov.Layout("NCHW"))
    port.tensor().set_layout(ov.Layout("NHWC" if "nhwc" in model.absorb else "NCHW"))
    full = 1.0
    if "uint8" in model.absorb:
        full = 255.0
        port.tensor().set_element_type(ov.Type.u8)
        port.preprocess().convert_element_type(ov.Type.f32)
    if "normalize" in model.absorb:
        port.preprocess().mean([full * m for m in model.mean])
        port.preprocess().scale([full * s for s in model.std])
    return processor.build()
