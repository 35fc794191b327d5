"""A trial of the contract: engines of TensorRT for RTX, made from ONNX where no GPU is."""

from __future__ import annotations

import ctypes.util
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import (
    Artifact,
    Backend,
    Comparison,
    Context,
    ExportRequest,
    LoadedModel,
    Option,
    Precision,
    Runner,
    TensorSpec,
)
from timmx_core.errors import (
    ArtifactError,
    CannotRunHere,
    ExportError,
    MissingDependency,
    RequestError,
)

if TYPE_CHECKING:
    import numpy as np
    import tensorrt_rtx as trt

TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
MOST_BATCH = 64  # where no largest batch was asked for: an engine needs one


class TensorRtRtxBackend(Backend):
    """The format `tensorrt-rtx`."""

    name = "tensorrt-rtx"
    help = "Engines of TensorRT for RTX graphics cards."
    suffixes = (".engine",)
    precisions = (Precision("fp32", "float32", "float32", floor_db=60.0),)
    options = (
        Option(
            "target",
            "str",
            "Compute capability that the engine is for.",
            ("SM86", "SM89"),
            choices=TARGETS,
            multiple=True,
        ),
    )
    refuses = {"uint8_input": "an engine takes floating point images"}  # noqa: RUF012
    derives = ("onnx",)
    requires = ("tensorrt-rtx>=1.7",)

    def check_export(self, request: ExportRequest | None) -> None:
        if importlib.util.find_spec("tensorrt_rtx") is None:
            raise MissingDependency("tensorrt-rtx is not installed", "pip install tensorrt-rtx")
        if request is not None and "SM75" in request.options["target"]:
            raise RequestError("SM75 has no fp32 matrix products", "leave --target SM75 out")

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        onnx = context.derive("onnx", "fp32")
        inputs = tuple(replace(spec, shape=_bounded(spec)) for spec in onnx.inputs)
        batch = inputs[0].shape[0]
        outputs = tuple(replace(s, shape=(batch, *s.shape[1:])) for s in onnx.outputs)
        with context.stage("build the engine"):
            layers = _build(onnx.primary, context.primary, inputs[0], request.options["target"])
        notes = []
        if isinstance(batch, tuple) and request.batch[2] is None:
            notes.append(f"the engine takes up to {MOST_BATCH} images; --batch-max N changes that")
        given = Comparison(
            "ONNX given to the builder",
            got=onnx.primary,
            formats=("onnx", None),
            floor_db=80.0,
            inputs=onnx.inputs,
            outputs=onnx.outputs,
        )
        return Artifact(
            context.primary,
            inputs,
            outputs,
            comparisons=(given,),
            report={"layers": layers, "targets": list(request.options["target"])},
            notes=tuple(notes),
        )

    def check_run(self) -> None:
        if ctypes.util.find_library("cuda") is None:
            raise CannotRunHere(
                "there is no NVIDIA driver here", "run `timmx verify` on the target"
            )

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        self.check_run()
        return EngineRunner(path)


class EngineRunner(Runner):
    """One engine on the machine's first card, with torch's memory."""

    def __init__(self, path: Path) -> None:
        import tensorrt_rtx as trt

        self.engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise ArtifactError(f"TensorRT cannot load {path.name} on this card")
        self.context = self.engine.create_execution_context()
        self.name = f"TensorRT-RTX {trt.__version__}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        import tensorrt_rtx as trt
        import torch

        held: dict[str, torch.Tensor] = {}
        for name, array in inputs.items():
            held[name] = torch.from_numpy(array).cuda()
            self.context.set_input_shape(name, tuple(array.shape))
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        outputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        for name in outputs:
            held[name] = torch.empty(tuple(self.context.get_tensor_shape(name)), device="cuda")
        for name, tensor in held.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        self.context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return {name: held[name].cpu().numpy() for name in outputs}


def _bounded(spec: TensorSpec) -> tuple[Any, ...]:
    """The port's shape with an end to its batch."""
    batch, *rest = spec.shape
    if isinstance(batch, tuple) and batch[2] is None:
        batch = (batch[0], batch[1], max(MOST_BATCH, batch[1]))
    return (batch, *rest)


def _build(onnx: Path, engine: Path, port: TensorSpec, targets: tuple[str, ...]) -> int:
    """Parse the ONNX file, write the engine; the number of layers."""
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.WARNING))
    if not parser.parse_from_file(str(onnx)):
        raise ExportError(f"TensorRT cannot parse the ONNX file: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    batch, *rest = port.shape
    if isinstance(batch, tuple):
        profile: trt.IOptimizationProfile = builder.create_optimization_profile()
        profile.set_shape(port.name, *((n, *rest) for n in batch))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError("TensorRT could not build the engine", "see the log for its reason")
    engine.write_bytes(bytes(plan))
    return int(network.num_layers)
