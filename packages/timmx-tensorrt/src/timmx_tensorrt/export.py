"""One export: from the model to ONNX in the precision that was asked for, and to an engine."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Artifact, Context, ExportRequest, TensorSpec
from timmx_core.errors import ExportError
from timmx_core.toolkit.batches import bounded
from timmx_tensorrt.builder import Built, Shapes, build
from timmx_tensorrt.source import Source, make_source

if TYPE_CHECKING:
    from timmx_tensorrt.engines import EngineBackend

MOST_BATCH = 64  # where no largest batch was asked for: an engine needs one


def export(backend: EngineBackend, request: ExportRequest, context: Context) -> Artifact:
    """Derive the ONNX file, lower its precision, build.

    :raises ExportError: with the operator or the words of the library.
    """
    source = make_source(request, context)
    inputs = tuple(with_end(port) for port in source.inputs)
    outputs = tuple(replace(o, shape=(inputs[0].shape[0], *o.shape[1:])) for o in source.outputs)
    notes = list(source.notes)
    batch = source.inputs[0].shape[0]
    if isinstance(batch, tuple) and batch[2] is None:
        most = bounded(batch, MOST_BATCH)[2]
        notes.append(f"the engine takes up to {most} images; --batch-max N changes that")
    if request.options["onnx_only"]:
        return _onnx_only(backend, source, inputs, outputs, request, context, notes)
    settings = backend.settings(request)
    shapes = dict(profiles(inputs))
    with context.stage("build the engine"):
        built = build(backend.library, source.path, context.primary, settings, shapes)
    check_network(built, inputs, outputs)
    if built.trouble:
        notes.append(built.trouble)
    made = backend.made_on(settings, backend.library.load().__version__)
    notes.append(f"the engine is for {backend.meant_for(made)}")
    report = {
        **source.report,
        "layers": built.layers,
        "kinds": dict(built.kinds),
        "types": dict(built.types),
        "built": dict(made),
    }
    return Artifact(context.primary, inputs, outputs, (), source.comparisons, report, tuple(notes))


def _onnx_only(
    backend: EngineBackend,
    source: Source,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    request: ExportRequest,
    context: Context,
    notes: list[str],
) -> Artifact:
    """The file that the builder would have been given, and what to tell it elsewhere."""
    # Comparisons still read the source where it is.
    shutil.copyfile(source.path, context.primary)
    companions = []
    for path in source.companions:
        companions.append(context.staging / path.name)
        shutil.copyfile(path, companions[-1])
    engine = context.primary.stem + backend.suffixes[0]
    shapes = [
        f"--{which}Shapes={name}:{'x'.join(str(n) for n in three[index])}"
        for name, three in profiles(inputs)
        for index, which in enumerate(("min", "opt", "max"))
    ]
    # The file itself is run, and need not be compared a second time.
    comparisons = tuple(c for c in source.comparisons if c.got != source.path)
    # Names alone: where the file is now tells of this machine.
    command = backend.command(context.primary.name, engine, request, shapes)
    check = shlex.join(["timmx", "verify", engine, "--built-from", context.primary.name])
    notes += [f"build it, in its folder, with: {command}", f"and check that with: {check}"]
    return Artifact(
        context.primary,
        inputs,
        outputs,
        tuple(companions),
        comparisons,
        {**source.report, "command": command},
        tuple(notes),
    )


def check_network(
    built: Built, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Whether the library has read the ports that the file is to have.

    :raises ExportError: it has others.
    """
    for got, wanted in ((built.inputs, inputs), (built.outputs, outputs)):
        names = tuple(port.name for port in wanted)
        if got != names:
            raise ExportError(f"the network has {', '.join(got)}, where {', '.join(names)} belong")


def with_end(port: TensorSpec) -> TensorSpec:
    """The port with an end to its batch."""
    batch = port.shape[0]
    if isinstance(batch, int):
        return port
    return replace(port, shape=(bounded(batch, MOST_BATCH), *port.shape[1:]))


def profiles(inputs: tuple[TensorSpec, ...]) -> Iterator[tuple[str, Shapes]]:
    """Name and shapes of every input with a dynamic batch."""
    for port in inputs:
        batch, *rest = port.shape
        if isinstance(batch, tuple):
            sizes: Any = tuple(rest)
            least, best, most = batch
            assert most is not None
            yield port.name, ((least, *sizes), (best, *sizes), (most, *sizes))
