"""The formats `torch-export` and `torchscript`. Light to import: torch is imported on use."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
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
)
from timmx_core.errors import ArtifactError, CannotRunHere, MissingDependency, RequestError
from timmx_core.toolkit.frozen_values import frozen_note
from timmx_torch import archive

if TYPE_CHECKING:
    import torch

FP32 = Precision("fp32", "float32", "float32", floor_db=80.0)
# Seen on CNNs and ViTs with random weights: fp16 32 to 54 dB, bf16 16 to 36 (efficientnet_b0 is
# the lowest of both). Swapped colours leave at most 9 dB.
FP16 = Precision("fp16", "float16", "float16", floor_db=25.0)
BF16 = Precision("bf16", "bfloat16", "bfloat16", floor_db=12.0)
INT8 = Precision("int8", "int8 per channel", "uint8", floor_db=5.0, calibrated=True)

RUN_DEVICE = Option(
    "run_device",
    "str",
    "Device that the file is verified on: cpu, cuda, cuda:1.",
    "cpu",
    phase="run",
    metavar="DEVICE",
)


class _TorchBackend(Backend):
    """What both formats share: a zip archive, with metadata among its extra files."""

    runs_on_torch = True
    requires = ("torch>=2.10",)
    kind: archive.Kind

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        if importlib.util.find_spec("torch") is None:
            raise MissingDependency("torch is not installed", "pip install timmx-torch")

    def check_run_options(self, options: Mapping[str, Any]) -> None:
        """See `Backend.check_run_options`."""
        check_device_name(options["run_device"])

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        if importlib.util.find_spec("torch") is None:
            raise CannotRunHere("torch is not installed", "pip install timmx-torch")

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Append the manifest as the extra file `timmx.json`."""
        archive.add_extra(artifact.primary, archive.MANIFEST, manifest)
        return True

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        if not path.is_file():
            return None
        try:
            with archive.opened(path) as opened:
                return opened.extra_file(archive.MANIFEST) if opened.kind == self.kind else None
        except archive.BadArchive as error:
            if path.suffix in self.suffixes:
                raise ArtifactError(f"{path.name} is not a {self.name} file: {error}") from error
            return None

    def content_digest(self, path: Path) -> str:
        """See `Backend.content_digest`: the members of the archive without that one."""
        if not path.is_file():
            raise ArtifactError(f"{path.name} is missing")
        try:
            return archive.content_digest(path)
        except archive.BadArchive as error:
            raise ArtifactError(f"{path.name} cannot be read: {error}") from error


class TorchExportBackend(_TorchBackend):
    """`torch.export` programs."""

    name = "torch-export"
    help = "torch.export program (.pt2), for PyTorch and AOTInductor."
    suffixes = (".pt2",)
    precisions = (FP32, FP16, BF16, INT8)
    options = (RUN_DEVICE,)
    kind = "pt2"

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        super().check_export(request)
        if request is None or request.precision != INT8:
            return
        if importlib.util.find_spec("torchao") is None:
            raise MissingDependency(
                "--precision int8 needs torchao, which is not installed",
                'pip install "timmx-torch[int8]"',
            )

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_torch import casting, saving

        dtype = casting.DTYPES.get(request.precision.name)
        with context.stage("capture"):
            module = model.module if dtype is None else casting.cast(model.module, dtype)
            program = model.capture(module)
        ports = saving.ports([i.name for i in model.inputs], [o.name for o in model.outputs])
        comparisons = []
        if request.precision == INT8:
            plain = context.staging / f"float{self.suffixes[0]}"
            with context.stage("quantize"):
                quantized = self._quantized(program, model, context)
            saving.save_program(program, plain, ports)
            comparisons.append(Comparison("float file", got=plain, floor_db=FP32.floor_db))
            program = quantized
        with context.stage("save"):
            saving.save_program(program, context.primary, ports)
        nodes = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
        return Artifact(
            primary=context.primary,
            inputs=model.inputs,
            outputs=model.outputs,
            comparisons=tuple(comparisons),
            report={"nodes": len(nodes), "operators": counted(nodes)},
        )

    def _quantized(
        self, program: torch.export.ExportedProgram, model: LoadedModel, context: Context
    ) -> torch.export.ExportedProgram:
        from timmx_torch.quantization import quantize

        (port,) = model.inputs
        size = len(model.example_inputs[0])
        batches = (batch[port.name] for batch in context.calibration(size))
        return model.capture(quantize(program, batches))

    def preload(self) -> None:
        """Import torch."""
        self.check_run()
        import torch  # noqa: F401

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        self.check_run()
        from timmx_torch.runner import open_program

        return open_program(path, options.get("run_device") or "cpu")

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        quantized = manifest["precision"]["name"] == INT8.name
        operators = "import torch.ao.quantization.fx._decomposed\n" if quantized else ""
        return operators + _snippet("torch.export.load(path).module()")


class TorchScriptBackend(_TorchBackend):
    """TorchScript modules."""

    name = "torchscript"
    help = "TorchScript module (.pt), for PyTorch and libtorch."
    suffixes = (".pt", ".torchscript")
    precisions = (FP32,)
    options = (
        Option(
            "method",
            "str",
            "trace follows one example; script translates the model's source.",
            "trace",
            choices=("trace", "script"),
        ),
        Option("freeze", "bool", "Make the weights constants of the graph.", False),
        RUN_DEVICE,
    )
    kind = "torchscript"

    def build_options(self, request: ExportRequest) -> Mapping[str, Any]:
        """See `Backend.build_options`."""
        if request.options["method"] == "script":
            return {"exportable": True, "scriptable": True}
        return {"exportable": True}

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_torch import saving, tracing

        method, freeze = request.options["method"], request.options["freeze"]
        with context.stage("trace" if method == "trace" else "script"):
            script, places = tracing.to_script(model.module, model.example_inputs, method, freeze)
        with context.stage("save"):
            ports = saving.ports([i.name for i in model.inputs], [o.name for o in model.outputs])
            saving.save_script(script, context.primary, ports)
        nodes = [node.kind() for node in script.inlined_graph.nodes()]
        return Artifact(
            primary=context.primary,
            inputs=model.inputs,
            outputs=model.outputs,
            notes=tuple(frozen_note(places, "--method script keeps such decisions")),
            report={"method": method, "frozen": freeze, "operators": counted(nodes)},
        )

    def preload(self) -> None:
        """Import torch."""
        self.check_run()
        import torch  # noqa: F401

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        self.check_run()
        from timmx_torch.runner import open_script

        return open_script(path, options.get("run_device") or "cpu")

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        return _snippet("torch.jit.load(path)")


def check_device_name(name: str) -> None:
    """Whether torch knows such a device, be it here or not.

    :raises RequestError: it does not, or one that holds no numbers.
    """
    if name == "cpu" or importlib.util.find_spec("torch") is None:
        return
    import torch

    try:
        known = torch.device(name).type != "meta"
    except RuntimeError:
        known = False
    if not known:
        raise RequestError(
            f"torch can run nothing on a device {name!r}", "there are cpu, cuda, cuda:1, mps, xpu"
        )


def counted(names: list[str]) -> dict[str, int]:
    """How often each name occurs, most frequent first."""
    counts = {name: names.count(name) for name in set(names)}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _snippet(load: str) -> str:
    return (
        "import torch\n"
        f"module = {load}\n"
        "with torch.inference_mode():\n"
        "    result = module(torch.from_numpy(x))\n"
        "outputs = [result] if isinstance(result, torch.Tensor) else list(result)\n"
        "outputs = [output.numpy() for output in outputs]\n"
    )
