"""XNNPACK's quantizer, which also sees what becomes one operator later.

Everything here imports torch and ExecuTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
from executorch.backends.xnnpack.utils.utils import is_depthwise_conv
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

aten = torch.ops.aten
LAYERS = (aten.conv2d.default, aten.linear.default)
PADS = (aten.pad.default, aten.constant_pad_nd.default)
CLAMPS = (aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default)


class Quantizer(XNNPACKQuantizer):  # type: ignore[misc] # of a package without types
    """Annotates first what the quantizer of ExecuTorch overlooks.

    A layer and the clamp behind it are one operator of XNNPACK's. Annotated as two, eight bits have
    to hold all that the layer gives and not only what the clamp lets through. And a convolution
    with a ReLU behind it is left out where ranges are found at run time.

    :param config: of `get_symmetric_quantization_config`.
    :param layers_only: leave in float what stands between layers.
    """

    def __init__(self, config: Any, *, layers_only: bool) -> None:
        super().__init__()
        self.config = config
        if layers_only:
            for operator in LAYERS:
                self.set_operator_type(operator, config)
        else:
            self.set_global(config)
        if config.input_activation.is_dynamic:
            self.set_filter_function(lambda node: not _is_padded(node))

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Mark what is to be in integers."""
        dynamic = self.config.input_activation.is_dynamic
        for node in model.graph.nodes:
            if node.target not in LAYERS:
                continue
            if dynamic and not _is_depthwise(node) and not _is_padded(node):
                self._annotate_layer(node)
            elif not dynamic and (clamp := _clamp_behind(node)) is not None:
                self._annotate_layer(node)
                clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    output_qspec=self.config.output_activation, _annotated=True
                )
        annotated: torch.fx.GraphModule = super().annotate(model)
        return annotated

    def _annotate_layer(self, node: torch.fx.Node) -> None:
        x, weight = node.args[:2]
        node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            input_qspec_map={x: self.config.input_activation, weight: self.config.weight},
            _annotated=True,
        )


def _clamp_behind(node: torch.fx.Node) -> torch.fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in CLAMPS else None


def _is_padded(node: torch.fx.Node) -> bool:
    """XNNPACK refuses a pad before a layer whose ranges are found at run time."""
    before = node.args[0] if node.target in LAYERS else None
    return isinstance(before, torch.fx.Node) and before.target in PADS


def _is_depthwise(node: torch.fx.Node) -> bool:
    """As which XNNPACK has no ranges found at run time."""
    weight = node.args[1]
    assert isinstance(weight, torch.fx.Node)
    shape = tuple(weight.meta["val"].shape)
    return node.target == aten.conv2d.default and bool(is_depthwise_conv(shape))
