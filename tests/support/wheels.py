"""Wheels of made-up plugins, written in milliseconds: no build backend is needed for them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    modules: Mapping[str, str | bytes],
    *,
    requires: Sequence[str] = ("timmx-core",),
    plugin: str | None = None,
) -> Path:
    """A wheel that installs these modules.

    :param name: as on an index: "timmx-good".
    :param modules: sources by the name of the file.
    :param plugin: the module of its entry point in the group `timmx`; None: it is no plugin.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {text}" for text in requires]
    wheel = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files: dict[str, str | bytes] = {
        **modules,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": wheel,
    }
    if plugin is not None:
        short = name.removeprefix("timmx-")
        files[f"{info}/entry_points.txt"] = f"[timmx]\n{short} = {plugin}\n"
    record = ""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={digest},{len(data)}\n"
            archive.writestr(file, data)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


# A format whose export is made up: it needs neither torch nor a model, and does what an
# environment variable says. What is tested with it is how it is reached, and how it ends.
PLUGIN = """
import os
import signal
import time

from timmx_core.lifecycle import export as lifecycle
from timmx_core.backend import Backend, Option, Precision
from timmx_core.errors import CannotRunHere, ExportError
from timmx_core.hookspecs import hookimpl

TIMMX_API_VERSION = 1
PRELUDE


class MadeUp(Backend):
    name = "NAME"
    help = "The made-up format NAME."
    suffixes = (".NAME",)
    precisions = (
        Precision("fp32", "float32", "float32", 80.0), Precision("fp16", "float16", "float32", 30.0)
    )
    refuses = {"device": "it runs on toasters"}
    options = (
        Option("level", "int", "How hard to try.", 3, minimum=1),
        Option("mode", "str", "Which way.", "fast", choices=("fast", "small")),
        Option("scales", "floats", "Two scales.", (0.5, 2.0), arity=2),
        Option("tag", "str", "A word to keep.", (), multiple=True),
        Option("fold", "bool", "Fold.", True),
        Option("cores", "int", "Cores to run on.", phase="run", minimum=1),
    )

    def export(self, model, request, context):
        raise ExportError("not made up")

    def open(self, path, options):
        raise CannotRunHere("there is no toaster")


def run_export(backend, request, *, manager, reporter):
    from timmx_core.progress import Stopwatch
    from timmx_core.results import ExportResult, Measurement, Verdict
    from timmx_core.files.staging import Staging
    from timmx_core.files.output_path import target_of

    target = target_of(backend, request)
    watch = Stopwatch(reporter)
    with Staging(target.parent) as staging, watch.stage("convert"):
        print("noise of a converter")
        reporter.note("made up")
        half = staging.path / target.name
        half.write_bytes(b"half a file")
        own = os.environ.get("MADE_UP_" + backend.name.upper(), "")
        behave(own or os.environ.get("MADE_UP", ""), os.environ.get("MADE_UP_MARK"))
        half.write_bytes(b"a whole file")
        half.replace(target)
        staging.published = True
    facts = {"shared": dict(request.shared), "options": dict(request.options)}
    measured = (Measurement("file", "output", 1, 120.0, 80.0),)
    verdict = Verdict("verified", "", "toaster 1.0", "native", measured, 8)
    manifest = {
        "inputs": [], "outputs": [], "format": backend.name, "asked": repr(facts),
        "model": {"name": request.model},
        "precision": {
            "name": request.precision.name, "weights": "crumbs", "activations": "toast",
        },
        "prefix": __import__("sys").prefix,
    }
    notes = ("made up",)
    return ExportResult(target, verdict, manifest, {}, 12, notes=notes, seconds=watch.seconds)


def behave(how, mark):
    if mark:
        with open(mark + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(mark + ".new", mark)
    if how == "sleep":
        time.sleep(60)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    if how == "bug":
        raise RuntimeError("a bug")
    if how == "refuse":
        raise ExportError("no operator toast", "bread")


@hookimpl
def timmx_backends():
    lifecycle.run_export = run_export
    return [MadeUp()]
"""


def plugin_wheel(folder: Path, name: str, version: str = "1.0", prelude: str = "") -> Path:
    """A wheel of `timmx-NAME`, whose format is made up.

    :param prelude: code that runs while it is imported.
    """
    module = f"timmx_{name.replace('-', '_')}"
    source = PLUGIN.replace("PRELUDE", prelude).replace("NAME", name)
    return write_wheel(folder, f"timmx-{name}", version, {f"{module}.py": source}, plugin=module)
