"""The source of a plugin that works, for distributions that `timmx_core.testing` writes."""

from __future__ import annotations

from timmx_core.testing.distributions import fake_dist

__all__ = ["fake_dist", "format_source"]

# A format that exports and runs for real, by torch.export; NAME is replaced.
FORMAT_SOURCE = """
from timmx_core.backend import Artifact, Backend, Option, Precision, Runner
from timmx_core.errors import MissingDependency
from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = 1


class FakeRunner(Runner):
    name = "torch"

    def __init__(self, module, outputs):
        self.module = module
        self.outputs = outputs

    def run(self, inputs):
        import torch

        with torch.inference_mode():
            found = self.module(*(torch.from_numpy(array) for array in inputs.values()))
        return {name: found.numpy() for name in self.outputs}


class FakeBackend(Backend):
    name = "NAME"
    help = "The format NAME."
    suffixes = (".NAME",)
    precisions = (Precision("fp32", "float32", "float32", 80.0),)
    refuses = {"device": "it runs on toasters"}
    runs_on_torch = True
    options = (
        Option("level", "int", "How hard to try.", 3, minimum=1),
        Option("mode", "str", "Which way.", "fast", choices=("fast", "small")),
        Option("cores", "int", "Cores to run on.", phase="run", minimum=1),
    )

    def export(self, model, request, context):
        import os
        import subprocess
        import time

        import torch

        print("converter noise")
        if "NAME_BUG" in os.environ:
            raise_bug()
        if "NAME_SLEEP" in os.environ:
            print("staged", context.staging)
            context.primary.write_bytes(b"half a file")
            tool = subprocess.Popen(["sleep", "60"])
            with open(os.environ["NAME_SLEEP"] + ".new", "w") as mark:
                mark.write(str(tool.pid))
            os.rename(os.environ["NAME_SLEEP"] + ".new", os.environ["NAME_SLEEP"])
            try:
                time.sleep(60)
            except BaseException:  # as some converters have it
                time.sleep(60)
        with context.stage("capture"):
            program = model.capture()
        with open(context.primary, "wb") as file:
            torch.export.save(program, file)
        return Artifact(context.primary, model.inputs, model.outputs, notes=("a remark",))

    def open(self, path, options):
        import torch

        return FakeRunner(torch.export.load(path).module(), ("output",))


@hookimpl
def timmx_backends():
    return [FakeBackend()]
"""


def format_source(name: str) -> str:
    """Source of a plugin that brings one working format."""
    return FORMAT_SOURCE.replace("NAME", name)
