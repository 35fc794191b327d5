"""A trial of the contract: OpenVINO IR, a pair of files that does its own preprocessing."""

from __future__ import annotations

import base64
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import (
    Artifact,
    Backend,
    Context,
    ExportRequest,
    LoadedModel,
    Option,
    Precision,
    Runner,
)
from timmx_core.errors import ArtifactError, CannotRunHere, ExportError, MissingDependency

if TYPE_CHECKING:
    import numpy as np
    import openvino as ov

MOST_BYTES = 256 << 20
# Every attribute of the format is base64 or a word, so nothing needs to be escaped.
ENTRY = re.compile(rb'<timmx value="([A-Za-z0-9+/=]*)" />\s*</rt_info>\s*</net>\s*$')


class OpenVinoBackend(Backend):
    """The format `openvino`."""

    name = "openvino"
    help = "OpenVINO IR, for Intel CPUs, GPUs and NPUs."
    suffixes = (".xml",)
    companion_suffixes = (".bin",)
    precisions = (
        Precision("fp32", "float32", "float32", floor_db=80.0),
        Precision("fp16", "float16", "as the device computes", floor_db=30.0),
    )
    options = (
        Option("ov_device", "str", "Device that runs the file: CPU, GPU, NPU.", "CPU", phase="run"),
    )
    absorbs = frozenset({"nhwc", "uint8", "normalize"})
    requires = ("openvino>=2025.3",)

    def check_export(self, request: ExportRequest | None) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise MissingDependency("openvino is not installed", "pip install openvino")

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        ov = import_openvino()
        with context.stage("capture"):
            program = model.capture()
        with context.stage("convert to OpenVINO"):
            try:
                converted = ov.convert_model(program)
            except (
                Exception
            ) as error:  # the frontend raises its own kinds, all of them RuntimeError
                raise ExportError(f"OpenVINO cannot convert it: {_cause(error)}") from error
            _fix_ports(converted, model)
            converted = _preprocess(converted, model)
            operators = _name_nodes(converted)
            half = request.precision.name == "fp16"
            ov.save_model(converted, context.primary, compress_to_fp16=half)
        return Artifact(
            context.primary,
            model.file_inputs,
            model.file_outputs,
            companions=(context.primary.with_suffix(".bin"),),
            report={"operators": operators},
        )

    def check_run(self) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise CannotRunHere("openvino is not installed", "pip install openvino")

    def preload(self) -> None:
        self.check_run()
        import_openvino()

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        self.check_run()
        return OpenVinoRunner(path, options["ov_device"])

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        text = artifact.primary.read_bytes().rstrip()
        head = re.sub(rb"</rt_info>\s*</net>$", b"", text)
        if head == text:
            raise ExportError("the IR does not end with rt_info")
        entry = b'<timmx value="%s" />\n</rt_info>\n</net>\n' % base64.b64encode(manifest)
        artifact.primary.write_bytes(head + entry)
        return True

    def read(self, path: Path) -> bytes | None:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(MOST_BYTES)
        if not re.match(rb"<\?xml[^>]*>\s*<net ", data[:1000]):
            return None
        found = ENTRY.search(data)
        if found is None and not data.rstrip().endswith(b"</net>"):
            raise ArtifactError(f"{path.name} is cut off, or too large")
        return base64.b64decode(found[1]) if found else None

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        return (
            "import openvino\n"
            'compiled = openvino.Core().compile_model(path, "CPU")\n'
            "outputs = [array for array in compiled(x).values()]\n"
        )


def import_openvino() -> Any:
    """openvino without its reports to its makers, for which it writes to the user's home."""
    # It does without them where this module cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVinoRunner(Runner):
    """One compiled model."""

    def __init__(self, path: Path, device: str) -> None:
        ov = import_openvino()
        core = ov.Core()
        if device not in core.available_devices:
            raise CannotRunHere(f"OpenVINO sees no {device} here")
        try:
            # Recent processors compute in bf16 unless told otherwise.
            self.compiled = core.compile_model(path, device, {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO cannot load {path.name}: {_cause(error)}") from error
        self.name = f"OpenVINO {ov.__version__.partition('-')[0]} {device}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {k.get_any_name(): v.copy() for k, v in self.compiled(dict(inputs)).items()}


def _fix_ports(converted: ov.Model, model: LoadedModel) -> None:
    """Names, and the sizes that the frontend leaves open."""
    port, spec = converted.inputs[0], model.inputs[0]
    converted.reshape({port: [d if isinstance(d, int) else -1 for d in spec.shape]})
    port.get_tensor().set_names({spec.name})
    for output, declared in zip(converted.outputs, model.outputs, strict=True):
        output.get_tensor().set_names({declared.name})


def _preprocess(converted: ov.Model, model: LoadedModel) -> ov.Model:
    """What `absorbs` promises, where it was asked for."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    if not model.absorb:
        return converted
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


def _name_nodes(converted: ov.Model) -> dict[str, int]:
    """Names that do not depend on what this process has converted before; how often each occurs."""
    counts: Counter[str] = Counter()
    converted.set_friendly_name("model")
    for node in converted.get_ordered_ops():
        kind = node.get_type_name()
        node.set_friendly_name(f"{kind}_{counts[kind]}")
        counts[kind] += 1
    return dict(sorted(counts.items()))


def _cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
