"""The format `ncnn`. Light to import: pnnx and ncnn are imported by what needs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timmx_core.backend import (
    Artifact,
    Backend,
    Context,
    ExportRequest,
    LoadedModel,
    Precision,
    Runner,
)
from timmx_core.errors import CannotRunHere, MissingDependency
from timmx_ncnn import param

ONE_IMAGE = "an ncnn network takes one image; the program that runs it takes them one by one"
FLOAT_PLANES = "an ncnn network takes planes of floats; ncnn makes them of pixels outside the file"


class NcnnBackend(Backend):
    """A network of ncnn: a file of layers, and one of weights."""

    name = "ncnn"
    help = "ncnn, for phones and other small machines; CNNs above all."
    suffixes = (".param",)
    companion_suffixes = (".bin",)
    precisions = (
        Precision("fp32", "float32", "as ncnn is told", floor_db=80.0),
        Precision("fp16", "float16", "as ncnn is told", floor_db=30.0),
    )
    refuses: Mapping[str, str] = {
        **dict.fromkeys(
            ("batch_size", "dynamic_batch", "batch_min", "batch_opt", "batch_max"), ONE_IMAGE
        ),
        **dict.fromkeys(("uint8_input", "nhwc_input"), FLOAT_PLANES),
    }
    requires = ("ncnn>=1.0.20260526", "pnnx>=20260526")

    def check_export(self, request: ExportRequest | None) -> None:
        """See `Backend.check_export`."""
        if importlib.util.find_spec("pnnx") is None:
            raise MissingDependency("pnnx is not installed", "pip install timmx-ncnn")

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`."""
        from timmx_ncnn.export import export

        return export(model, request, context)

    def check_run(self) -> None:
        """See `Backend.check_run`."""
        if importlib.util.find_spec("ncnn") is None:
            raise CannotRunHere("ncnn is not installed", "pip install timmx-ncnn")

    def preload(self) -> None:
        """Import ncnn."""
        self.check_run()
        import ncnn  # noqa: F401

    def open(self, path: Path, options: Mapping[str, Any]) -> Runner:
        """See `Backend.open`."""
        self.check_run()
        from timmx_ncnn.runner import NcnnRunner

        return NcnnRunner(path)

    def embed(self, artifact: Artifact, manifest: bytes) -> bool:
        """Append the manifest as a line of its own, behind the layers, where ncnn stops reading."""
        param.add_manifest(artifact.primary, manifest)
        return True

    def read(self, path: Path) -> bytes | None:
        """See `Backend.read`."""
        return param.read_manifest(path, ours=path.suffix in self.suffixes)

    def content_digest(self, path: Path) -> str:
        """See `Backend.content_digest`: the layers, and the file of weights."""
        return param.content_digest(path)

    def snippet(self, manifest: Mapping[str, Any]) -> str:
        """See `Backend.snippet`."""
        name = manifest["inputs"][0]["name"]
        outputs = [output["name"] for output in manifest["outputs"]]
        return (
            "from pathlib import Path\n"
            "import ncnn\n"
            "import numpy as np\n"
            "net = ncnn.Net()\n"
            "# Without these ncnn computes in fp16 or bf16 where the processor can.\n"
            "net.opt.use_fp16_packed = net.opt.use_fp16_storage = False\n"
            "net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False\n"
            "assert net.load_param(path) == 0\n"
            'assert net.load_model(str(Path(path).with_suffix(".bin"))) == 0\n'
            "extractor = net.create_extractor()\n"
            f"extractor.input({name!r}, ncnn.Mat(np.ascontiguousarray(x[0])).clone())\n"
            f"outputs = [np.array(extractor.extract(name)[1])[None] for name in {outputs!r}]\n"
        )
