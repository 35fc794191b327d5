"""One export, from a loaded model to a network of ncnn in staging."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from timmx_core.backend import Artifact, Comparison, Context, ExportRequest, LoadedModel
from timmx_core.errors import ExportError, first_line
from timmx_core.toolkit.comparison import FLOAT_FLOOR_DB
from timmx_core.toolkit.frozen_values import frozen_note, trace_and_find
from timmx_ncnn.param import BadParam, Network, read_network

REMEDY = "write it with torch.where"
# Why pnnx left an operator alone, among its lines.
WHY = re.compile(
    r"^\s*([\w.]+(?: \w+)* (?:unsupported|not supported) .*|.*has unsupported .*)$", re.MULTILINE
)


def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
    """Trace, convert by pnnx, name the ports, check.

    :raises ExportError: names the operator that ncnn has no layer for.
    """
    half = request.precision.name == "fp16"
    with context.stage("trace"):
        script, places = trace(model)
    with context.stage("convert to ncnn"):
        network = convert(script, model, context.primary, half=half)
    comparisons = []
    if half:
        plain = context.staging / "float" / "float.param"
        plain.parent.mkdir()
        with context.stage("convert to ncnn, in float"):
            convert(script, model, plain, half=False)
        comparisons.append(Comparison("float file", got=plain, floor_db=FLOAT_FLOOR_DB))
    kinds = Counter(layer.type for layer in network.layers)
    return Artifact(
        context.primary,
        model.inputs,
        model.outputs,
        companions=(context.primary.with_suffix(".bin"),),
        comparisons=tuple(comparisons),
        notes=tuple(frozen_note(places, REMEDY)),
        report={"layers": len(network.layers), "kinds": dict(sorted(kinds.items()))},
    )


def trace(model: LoadedModel) -> tuple[bytes, tuple[str, ...]]:
    """The model as TorchScript, which is what pnnx reads, and where values were frozen in it.

    :raises ExportError: it cannot be traced.
    """
    import torch

    jit: Any = torch.jit
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            script, places = trace_and_find(
                lambda: jit.trace(model.module, model.example_inputs, check_trace=False)
            )
        except Exception as error:  # whatever the model's own code raises
            reason = first_line(error, 300)
            raise ExportError(f"torch cannot trace the model: {reason}") from error
        buffer = io.BytesIO()
        jit.save(script, buffer)
    return buffer.getvalue(), places


def convert(script: bytes, model: LoadedModel, target: Path, *, half: bool) -> Network:
    """Leave the pair of files at `target`.

    :raises ExportError: pnnx failed, or left something that ncnn does not know.
    """
    folder = target.parent / "pnnx"
    folder.mkdir()
    try:
        (folder / "model.pt").write_bytes(script)
        said = _run_pnnx(folder, model.example_inputs[0].shape, half=half)
        network = _checked(folder / "model.ncnn.param", said)
        network = _named(network, model)
        target.write_text(network.text(), encoding="utf-8")
        shutil.move(folder / "model.ncnn.bin", target.with_suffix(".bin"))
    finally:
        shutil.rmtree(folder)
    return network


def _run_pnnx(folder: Path, shape: Any, *, half: bool) -> str:
    """All that it said; it is a program of its own, which writes where it is started."""
    import pnnx

    size = ",".join(str(int(length)) for length in shape)
    done = subprocess.run(
        [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{size}]f32", f"fp16={int(half)}"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stdout + done.stderr
    sys.stderr.write(said)  # to the log, with what else converters say
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ExportError(f"pnnx died with {name} on this model")
    if done.returncode:
        raise ExportError(f"pnnx cannot convert the model: exit code {done.returncode}")
    return said


def _checked(path: Path, said: str) -> Network:
    """The network that pnnx left, where ncnn can load it: some others kill its process."""
    try:
        network = read_network(path)
    except (BadParam, FileNotFoundError) as error:
        raise ExportError(f"pnnx left no network: {error}") from error
    if network.unknown:
        why = WHY.search(said)
        reason = f" ({why[0].strip()})" if why else ""
        raise ExportError(f"ncnn has no layer for {', '.join(network.unknown)[:300]}{reason}")
    return network


def _named(network: Network, model: LoadedModel) -> Network:
    """With the names of the model's ports in place of in0 and out0, out1, ...

    :raises ExportError: it has others.
    """
    names = {f"in{i}": port.name for i, port in enumerate(model.inputs)}
    names |= {f"out{i}": port.name for i, port in enumerate(model.outputs)}
    found = {*network.inputs, *network.outputs}
    if found != set(names):
        missing = sorted(set(names) - found)
        raise ExportError(
            f"pnnx made a network with the ports {', '.join(sorted(found))}"
            + (f", without {', '.join(missing)}" if missing else "")
        )
    return network.renamed(names)
