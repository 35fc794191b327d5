"""`timmx verify FILE`: later, elsewhere, without torch and without the weights."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Artifact, Backend, Precision
from timmx_core.errors import ArtifactError, OutputError, RequestError
from timmx_core.files import manifest as manifests
from timmx_core.files.inspection import (
    CHANGED,
    changed_members,
    check_there,
    inspect_file,
    read_embedded,
)
from timmx_core.files.publishing import read_record, record_path
from timmx_core.process.interrupts import at_end, forget
from timmx_core.process.paths import is_text
from timmx_core.process.torch_state import fresh
from timmx_core.progress import Reporter, Stopwatch
from timmx_core.request import options as option_data
from timmx_core.request.shared_options import NOT_OF_THE_FILE
from timmx_core.results import Inspection, Verdict
from timmx_core.verification import probes
from timmx_core.verification.judge import admits, batches_to_run, check_ports, verify_artifact
from timmx_core.verification.measure import Reference

if TYPE_CHECKING:
    import numpy as np
    import torch

    from timmx_core.plugins.manager import PluginManager


def verify_file(
    path: Path,
    manager: PluginManager,
    reporter: Reporter,
    *,
    probe_data: Path | None,
    model: str | torch.nn.Module | None,
    checkpoint: str | None,
    timeout: float,
    given: Mapping[str, Any],
    built_from: Path | None = None,
    floor: float | None = None,
) -> Verdict:
    """Make the probes again, run the file, compare with the references it carries.

    :param built_from: the file that carries them, where this one was built from it elsewhere.
    :param floor: decibels that suffice, below the floor of the file's precision.
    :raises ArtifactError: the file or its manifest cannot be read.
    """
    watch = Stopwatch(reporter)
    _check_path(path)
    with watch.stage("read"):
        try:
            if built_from is not None:
                inspection = _inspect_source(path, built_from, manager)
                reporter.note(f"held against what {built_from} says of itself")
            else:
                unmarked = _without_manifest(path, manager)
                if unmarked is not None:
                    return unmarked
                inspection = inspect_file(path, manager.backends.values())
        except ArtifactError as error:
            # A file that cannot be read is wrong for certain where its record knows it otherwise.
            changed = changed_members(path) if os.path.lexists(path) else []
            if not changed:
                raise
            return Verdict("failed", f"{changed[0]}: {error.message}")
        backend = manager.backend(inspection.format)
        options = option_data.run_options(backend, given)
        manifest = inspection.manifest
        trouble = _disagreement(manifest)
        if trouble:
            return Verdict("failed", trouble)
        limit = _floor_limit(manifest, floor, reporter)
    suspicion = _changed(inspection)
    try:
        verdict = _measured(
            path,
            inspection,
            manager,
            watch,
            timeout=timeout,
            options=options,
            limit=limit,
            images=None if probe_data is None else (model, checkpoint, probe_data),
        )
    except ArtifactError as error:
        if not suspicion:
            raise
        verdict = Verdict("failed", error.message)
    return _as_changed(verdict, suspicion) if suspicion else verdict


def _measured(
    path: Path,
    inspection: Inspection,
    manager: PluginManager,
    watch: Stopwatch,
    *,
    timeout: float,
    options: Mapping[str, Any],
    limit: float | None,
    images: tuple[str | torch.nn.Module | None, str | None, Path] | None,
) -> Verdict:
    """What the file gives for the probes, against the references of its manifest.

    :param images: model, checkpoint and folder, where there are further ones.
    """
    backend, manifest = manager.backend(inspection.format), inspection.manifest
    with watch.stage("verify"):
        pixels, references = _probes(manifest)
        if probes.digest(pixels) != manifest["probes"]["sha256"]:
            return Verdict(
                "inconclusive", "the probes could not be made again pixel for pixel on this machine"
            )
        if images is not None:
            pixels, references = _with_images(manifest, backend, *images)
        try:
            with _scratch() as scratch:
                verdict = verify_artifact(
                    backend,
                    _artifact(path, manifest),
                    references,
                    pixels,
                    _precision(backend, manifest).floor_db,
                    options=options,
                    backend_of=manager.backend,
                    scratch=scratch / "jobs",
                    timeout=timeout,
                    labels=manifest.get("labels"),
                    floor_limit=limit,
                )
                return _with_record(verdict, inspection.record)
        except OSError as error:
            raise OutputError(
                f"the temporary folder cannot be written: {error.strerror or error}",
                "make room there, or name another one with TMPDIR",
            ) from error


def _check_path(path: Path) -> None:
    """Whether a runtime can be given the path, or a good file would fail.

    :raises ArtifactError: it cannot.
    """
    check_there(path)
    if not is_text(path.resolve()):
        raise ArtifactError(
            f"{path} cannot be spelt in UTF-8, so runtimes cannot open it", "rename or copy it"
        )


def _changed(inspection: Inspection) -> str:
    """What shows that a file is not the one that was exported; empty where nothing does."""
    if inspection.intact is not False:
        return ""
    first, *others = inspection.problems
    return f"{first}; {CHANGED}" if CHANGED in others else first


def _as_changed(verdict: Verdict, changed: str) -> Verdict:
    """A file that was changed has failed, however right it still is; how right is told as well."""
    told = verdict.reason
    if verdict.status == "verified" and verdict.worst is not None:
        worst = verdict.worst
        told = f"it now stands at {worst.snr_db:.1f} dB (floor {worst.floor_db:g} dB)"
    elif verdict.status == "not verifiable here":
        told = f"it is not verifiable here: {told}"
    return replace(verdict, status="failed", reason=f"{changed}; {told}")


def _with_record(verdict: Verdict, record: Mapping[str, Any] | None) -> Verdict:
    """What failed where it was made is not excused by a machine that cannot run it."""
    if verdict.status != "not verifiable here" or record is None:
        return verdict
    recorded = record["verdict"]
    if recorded["status"] != "failed":
        return verdict
    return Verdict("failed", f"so its record says ({recorded.get('reason', '')}); {verdict.reason}")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="timmx-verify-") as folder:

        def remove() -> None:
            shutil.rmtree(folder, ignore_errors=True)

        at_end(remove)
        try:
            yield Path(folder)
        finally:
            forget(remove)


def _inspect_source(path: Path, source: Path, manager: PluginManager) -> Inspection:
    """What the source of a file says, which holds for the file as well.

    :raises RequestError: a source that cannot vouch for it.
    """
    check_there(path)
    if read_record(path) is not None or _holds_manifest(path, manager):
        raise RequestError(
            f"{path} says of itself what it is", "leave --built-from out to have it checked"
        )
    inspection = inspect_file(source, manager.backends.values())
    if inspection.problems:
        raise RequestError(f"--built-from {source}: {inspection.problems[0]}")
    suffixes = manager.backend(inspection.format).suffixes
    if path.suffix not in suffixes:
        raise RequestError(
            f"--built-from {source}: that is {inspection.format}, which runs "
            f"{' or '.join(suffixes)}, and not {path.name}"
        )
    return inspection


def _without_manifest(path: Path, manager: PluginManager) -> Verdict | None:
    """Inconclusive for a file of a known format that says nothing of itself."""
    check_there(path)
    known = any(path.suffix in b.suffixes for b in manager.backends.values())
    if not known or read_record(path) is not None or _holds_manifest(path, manager):
        return None
    return Verdict(
        "inconclusive",
        f"the file holds no timmx manifest, and {record_path(path).name} is not beside it; "
        "--built-from FILE names the file of timmx that it was made from",
    )


def _holds_manifest(path: Path, manager: PluginManager) -> bool:
    """Whether a format of such files finds a manifest in it."""
    backends = [b for b in manager.backends.values() if path.suffix in b.suffixes]
    return any(read_embedded(path, backend) is not None for backend in backends)


def _disagreement(manifest: Mapping[str, Any]) -> str:
    """Where the parts of a manifest contradict each other; empty where they do not."""
    if manifests.digest(manifest) != manifest["sha256"]:
        return "the manifest in the file was changed after the file was made"
    port = check_ports([manifests.spec_from_json(s) for s in manifest["inputs"]])
    pre, made = manifest["preprocessing"], manifest["probes"]
    shape = port.shape[1:] if port.layout == "NHWC" else (*port.shape[2:], port.shape[1])
    for name, size in (("preprocessing", pre), ("probes", made)):
        stated = (size["height"], size["width"], size["channels"])
        if not admits(shape, stated):
            return f"the manifest's {name} says {stated} (H, W, C), its input {tuple(shape)}"
    labels = manifest.get("labels")
    trouble = _wrong_classes(manifest, len(labels) if labels else None)
    if trouble:
        return trouble
    if labels and manifest["options"].get("labels") == "imagenet-1k":
        return _wrong_labels(labels)
    return ""


def _wrong_classes(manifest: Mapping[str, Any], labels: int | None) -> str:
    """Where labels or the number of classes are not those of the output that gives classes."""
    shapes = [o["shape"] for o in manifest["outputs"] if o["role"] in ("logits", "probabilities")]
    single = shapes[0][-1] if len(shapes) == 1 and len(shapes[0]) == 2 else None
    stated = manifest["model"].get("num_classes")
    for count, what in ((labels, f"{labels} labels"), (stated, f"{stated} classes")):
        if count is not None and count != single:
            found = "no single output of classes" if single is None else f"an output of {single}"
            return f"the manifest has {what} for {found}"
    return ""


def _wrong_labels(labels: list[str]) -> str:
    """Against the canonical list, where timm is here to have it."""
    from importlib.util import find_spec

    if find_spec("timm") is None:
        return ""
    from timmx_core.models.labels import imagenet_labels

    if tuple(labels) != imagenet_labels():
        return "the manifest's labels are not those of ImageNet-1k in their order"
    return ""


def _probes(manifest: Mapping[str, Any]) -> tuple[np.ndarray, list[Reference]]:
    made = manifest["probes"]
    if made["recipe"] != probes.RECIPE:
        raise ArtifactError(
            f"the file was verified with probes {made['recipe'][:40]!r}, which this timmx "
            "cannot make",
            "pip install --upgrade timmx-core",
        )
    recipe = probes.Recipe(
        made["height"], made["width"], made["channels"], made["count"], made["seed"]
    )
    if recipe.values > probes.MOST_VALUES:
        raise ArtifactError("the manifest asks for more probes than are reasonable")
    batches = _artifact(Path(), manifest).inputs[0].shape[0]
    if max(batches_to_run(batches, recipe.count)) > probes.most_batch(
        recipe.channels, recipe.height, recipe.width
    ):
        raise ArtifactError("the manifest asks for larger batches than are reasonable")
    references = [
        manifests.reference_from_json(data, recipe.count) for data in manifest["reference"]
    ]
    return probes.make(recipe), references


def _artifact(path: Path, manifest: Mapping[str, Any]) -> Artifact:
    return Artifact(
        primary=path,
        inputs=tuple(manifests.spec_from_json(s) for s in manifest["inputs"]),
        outputs=tuple(manifests.spec_from_json(s) for s in manifest["outputs"]),
    )


def _precision(backend: Backend, manifest: Mapping[str, Any]) -> Precision:
    """The plugin's own word on the floor, not the file's.

    :raises ArtifactError: a precision that the installed plugin does not know.
    """
    name = manifest["precision"]["name"]
    for precision in backend.precisions:
        if precision.name == name:
            return precision
    raise ArtifactError(f"the manifest says precision {name[:40]!r}, unknown to {backend.name}")


def _floor_limit(
    manifest: Mapping[str, Any], asked: float | None, reporter: Reporter
) -> float | None:
    """What higher floors are lowered to: as at the export, or further."""
    recorded = manifest["precision"].get("floor_limit_db")
    if recorded is not None:
        reporter.note(f"the file was exported with --floor {recorded:g}")
    return min((limit for limit in (recorded, asked) if limit is not None), default=None)


def _with_images(
    manifest: Mapping[str, Any],
    backend: Backend,
    model: str | torch.nn.Module | None,
    checkpoint: str | None,
    folder: Path,
) -> tuple[np.ndarray, list[Reference]]:
    """The model built again, with the options of the manifest, answers the user's images."""
    from timmx_core.lifecycle.reference import make_subject

    assert model is not None
    # How it was lowered says nothing of the model, nor do options that were left as they are.
    # Files of older versions also name the device that they were made on, and how they were run.
    telling = {
        o.name: o
        for o in option_data.options_of(backend)
        if not o.precisions and o.phase == "export" and o.name not in NOT_OF_THE_FILE
    }
    given = {
        name: value
        for name, value in manifest["options"].items()
        if name in telling and name != "labels" and value != telling[name].default
    }
    given |= {"probe_data": str(folder), "checkpoint": checkpoint}
    if checkpoint is None and isinstance(model, str):
        given["pretrained"] = manifest["model"]["weights"]["origin"] == "pretrained"
    request = option_data.make_request(backend, model, given)
    with fresh():
        subject = make_subject(replace(request, model=model), backend.build_options(request))
    recorded = manifest["model"]["weights"].get("sha256")
    if recorded and recorded != subject.built.weights["sha256"]:
        raise RequestError(
            "these are not the weights that the file was made from",
            "give the same --model and --checkpoint",
        )
    return subject.pixels, subject.references
