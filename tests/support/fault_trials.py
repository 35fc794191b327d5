"""Trying faults on a format: the file is wrong, all that is said about it is right.

References and manifest are core's, taken from the good model; only what the converter is given is
spoiled. So the file is what a converter's bug would make of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faults
import torch

import timmx_core
from timmx_core.api import exit_code
from timmx_core.backend import Artifact, Backend, Context, ExportRequest, LoadedModel
from timmx_core.errors import TimmxError, VerificationError
from timmx_core.files.publishing import member_digests, record_path
from timmx_core.hookspecs import API_VERSION, hookimpl
from timmx_core.plugins.manager import PluginManager
from timmx_core.results import Verdict
from timmx_core.toolkit.capture import Capturer

Model = str | torch.nn.Module
Inject = Callable[[LoadedModel], torch.nn.Module]
Change = Callable[[dict[str, Any]], dict[str, Any]]


def spoiling(
    backend: Backend,
    *,
    inject: Inject | None = None,
    embedded: Change | None = None,
    hidden: bool = True,
    found: Change | None = None,
    artifact: Callable[[Artifact], Artifact] | None = None,
) -> Backend:
    """The same format with a bug in its converter, in what it embeds, or in what it states.

    :param embedded: changes the manifest that goes into the file.
    :param hidden: what was embedded is not read back as it is, so that core does not see it.
    :param found: changes the manifest that comes out, as if it stood so in the file.
    """
    kind = type(backend)

    class Spoiling(kind):  # type: ignore[misc, valid-type]
        def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
            if inject is not None:
                with torch.no_grad():
                    module = inject(model).eval()
                capture = Capturer(module, model.example_inputs, request.batch)
                model = replace(model, module=module, capture=capture)
            made: Artifact = super().export(model, request, context)
            return made if artifact is None else artifact(made)

        def embed(self, made: Artifact, data: bytes) -> bool:
            self.given = data
            if embedded is not None:
                data = json.dumps(embedded(json.loads(data))).encode()
            return bool(super().embed(made, data))

        def read(self, path: Path) -> bytes | None:
            data: bytes | None = super().read(path)
            if data is not None and found is not None:
                return json.dumps(found(json.loads(data))).encode()
            return self.given if data is not None and embedded is not None and hidden else data

    # The worker opens the file with the format as it is.
    Spoiling.__module__, Spoiling.__qualname__ = kind.__module__, kind.__qualname__
    return Spoiling()


def manager_of(backend: Backend) -> PluginManager:
    """A manager that knows this format alone."""

    class Plugin:
        TIMMX_API_VERSION = API_VERSION

        @hookimpl
        def timmx_backends(self) -> list[Backend]:
            return [backend]

    manager = PluginManager()
    row = manager.register(Plugin(), backend.name)
    assert row.status == "ok", row.error
    return manager


def export(backend: Backend, model: Model, target: Path, **options: Any) -> Path:
    """Export with a format that no installed plugin needs to bring."""
    given = dict(options)
    if isinstance(model, str) and model.startswith("local-dir:"):
        given.setdefault("pretrained", True)
    manager = manager_of(backend)
    result = timmx_core.export(backend.name, model, output=str(target), manager=manager, **given)
    assert result.path is not None
    return result.path


def verify(backend: Backend, path: Path) -> Verdict:
    """What `timmx verify` says of the file as it is now."""
    return timmx_core.verify(path, manager=manager_of(backend))


def code_of(backend: Backend, path: Path) -> int:
    """The exit code of `timmx verify`."""
    try:
        return exit_code(verify(backend, path))
    except TimmxError as error:
        return error.exit_code


@dataclass(frozen=True)
class Trial:
    """What became of one fault."""

    exported: int  # exit code of the export
    published: bool
    reason: str
    with_record: Verdict | None  # of the file that was refused, later
    without_record: Verdict | None
    snr_db: float | None = None  # as the export measured it
    measured: bool = False  # the file ran, and its outputs were looked at

    @property
    def caught(self) -> bool:
        """At every point where it could be."""
        later = (self.with_record, self.without_record)
        return (
            self.exported == VerificationError.exit_code
            and not self.published
            and all(verdict is None or exit_code(verdict) == 7 for verdict in later)
        )


def try_fault(
    backend: Backend,
    model: Model,
    fault: faults.Fault,
    folder: Path,
    *,
    later: bool = True,
    **options: Any,
) -> Trial:
    """Export with the fault; then verify the refused file, with its record and without.

    The record fits the faulty file's digests, so that the measure has to find the fault.
    """
    faulty = spoiling(backend, inject=fault.inject)
    target = folder / "out" / f"model{backend.suffixes[0]}"
    kept = folder / "kept"
    code, reason = 0, ""
    given = {**fault.options, **options, "keep_failed": str(kept)}
    try:
        export(faulty, model, target, **given)
    except TimmxError as error:
        code, reason = error.exit_code, error.message
    published = target.parent.exists() and any(target.parent.iterdir())
    file = kept / target.name
    if not later or not file.exists():
        return Trial(code, published, reason, None, None)
    rows = record_of(file)["verdict"]["measurements"]
    rated = [row["snr_db"] for row in rows if row["snr_db"] is not None]
    with_record = verify(backend, file)
    record_path(file).unlink()
    return Trial(
        code,
        published,
        reason,
        with_record,
        verify(backend, file),
        min(rated, default=None),
        bool(rows),
    )


def record_of(path: Path) -> dict[str, Any]:
    """The record beside a file."""
    content: dict[str, Any] = json.loads(record_path(path).read_bytes())
    return content


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the record beside a file."""
    record_path(path).write_text(json.dumps(record), encoding="utf-8")


def refresh_record(path: Path) -> None:
    """Let the record state the digests that the files have now, as if they were meant to."""
    record = record_of(path)
    companions = [path.parent / n for n in record["members"] if not n.startswith(path.name)]
    record["members"] = member_digests(path, companions)
    write_record(path, record)


def flip_weights(path: Path, weights: list[torch.Tensor]) -> bool:
    """Flip the exponents of a tenth of some layer's weights, wherever they lie in the file.

    :return: whether any of the tensors was found in the file.
    """
    data = bytearray(path.read_bytes())
    for tensor in sorted(weights, key=torch.numel, reverse=True):
        values = tensor.detach().contiguous().numpy().tobytes()
        start = data.find(values)
        if start >= 0:
            # The last byte of a little-endian float32 holds sign and upper exponent.
            for index in range(start + 3, start + len(values), 40):
                data[index] ^= 0x81
            path.write_bytes(data)
            return True
    return False
