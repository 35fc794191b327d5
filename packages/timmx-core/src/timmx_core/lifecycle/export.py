"""One export, from request to file, top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Artifact, Backend, ExportRequest, LoadedModel
from timmx_core.errors import ExportError, TimmxError, VerificationError, first_line
from timmx_core.files import manifest as manifests
from timmx_core.files import publishing
from timmx_core.files.output_path import target_of
from timmx_core.files.ownership import Naming
from timmx_core.files.staging import Staging, output_error
from timmx_core.lifecycle import calibration
from timmx_core.lifecycle.context import ExportContext, check_artifact
from timmx_core.lifecycle.hints import advise
from timmx_core.models import checks as model_checks
from timmx_core.models.labels import IMAGENET, check_count, check_labels, read_labels
from timmx_core.process.gc_tuning import seldom_collected
from timmx_core.process.interrupts import held_back, import_whole
from timmx_core.process.torch_state import fresh
from timmx_core.progress import Reporter, Stopwatch
from timmx_core.request import options
from timmx_core.results import ExportResult, Verdict
from timmx_core.verification import probes

if TYPE_CHECKING:
    from timmx_core.lifecycle.reference import Subject
    from timmx_core.plugins.manager import PluginManager
    from timmx_core.verification.worker import Worker

BUILD, CONVERT, VERIFY, PUBLISH = "build", "convert", "verify", "publish"


def run_export(
    backend: Backend, request: ExportRequest, *, manager: PluginManager, reporter: Reporter
) -> ExportResult:
    """Export, verify, put in place, tell the observers.

    :raises TimmxError: of the kind that fits; nothing is left behind then.
    """
    backend.check_export(request)
    for name in backend.derives:
        manager.backend(name).check_export(None)
    request = resolve_source(request, manager)
    check_model(request)
    target = target_of(backend, request)
    try:
        with (
            Staging(target.parent) as staging,
            _early_worker(backend, request) as worker,
            seldom_collected(),
        ):
            export = _Export(backend, request, manager, Stopwatch(reporter), staging, target)
            result = export.run(worker)
    except OSError as error:
        raise output_error(error, target) from error
    for warning in manager.export_finished(request, result):
        reporter.note(warning)
    return result


def resolve_source(request: ExportRequest, manager: PluginManager) -> ExportRequest:
    """Let plugins turn a model name of their own scheme into a local path."""
    if not isinstance(request.model, str) or ":" not in request.model:
        return request
    path = manager.model_source(request.model)
    if path is None:
        return request
    if path.is_dir():
        shared = dict(request.shared) | {"pretrained": True}
        return replace(request, model=f"local-dir:{path}", shared=shared)
    architecture = request.model.partition(":")[2].rpartition("/")[2]
    shared = dict(request.shared) | {"checkpoint": str(path)}
    return replace(request, model=architecture, shared=shared)


def check_model(request: ExportRequest) -> None:
    """All that can be found wrong with model, weights, labels and images before torch loads."""
    if isinstance(request.model, str):
        model_checks.check_name(request.model, request.shared["model_kwarg"])
        model_checks.check_weights(request.model, request.shared)
        model_checks.check_hub(request.model, request.shared)
    if request.shared["labels"] != IMAGENET:
        check_count(read_labels(request.shared["labels"]), request.shared["num_classes"])
    if request.shared["probe_data"]:
        probes.check_images(Path(request.shared["probe_data"]))
    if request.shared["calibration_data"]:
        calibration.check_data(
            Path(request.shared["calibration_data"]),
            request.shared["calibration_samples"],
            preprocessed=request.shared["calibration_preprocessed"],
        )


def _early_worker(
    backend: Backend, request: ExportRequest
) -> AbstractContextManager[Worker | None]:
    """The verification's process, started now so that its imports overlap with the export."""
    from timmx_core.verification.worker import Worker, check_found

    if not request.shared["verify"]:
        return contextlib.nullcontext()
    check_found(backend)
    try:
        backend.check_run()
    except TimmxError:
        return contextlib.nullcontext()  # it could not run the file; the verdict will say why
    return Worker(backend)


class _Export:
    """The slow part: everything between an empty staging folder and a file in place."""

    def __init__(
        self,
        backend: Backend,
        request: ExportRequest,
        manager: PluginManager,
        watch: Stopwatch,
        staging: Staging,
        target: Path,
    ) -> None:
        self.backend = backend
        self.request = request
        self.manager = manager
        self.watch = watch
        self.staging = staging
        self.target = target
        self.notes: list[str] = []

    def run(self, worker: Worker | None) -> ExportResult:
        with self.watch.stage(BUILD):
            subject, loaded = self._build()
        with self.watch.stage(CONVERT):
            context = ExportContext(
                self.request,
                self.manager,
                self.watch,
                subject,
                loaded,
                self.staging.path / self.target.name,
            )
            artifact = self._convert(loaded, context)
            for warning in calibration.warnings(context.calibration_report):
                self._note(warning)
            manifest = self._manifest(subject, loaded, artifact, context)
            self._embed(artifact, manifest)
            self._check_content(artifact, manifest)
        with self.watch.stage(VERIFY):
            verdict = self._verify(subject, loaded, artifact, worker)
        with self.watch.stage(PUBLISH):
            return self._finish(artifact, manifest, verdict)

    def _build(self) -> tuple[Subject, LoadedModel]:
        request = self.request
        with self.watch.stage("import torch and timm"):
            import_whole("torch", "timm")
        from timmx_core.lifecycle.reference import load, make_subject

        with fresh(request.shared["device"]):
            subject = make_subject(request, self.backend.build_options(request))
            labels = read_labels(request.shared["labels"])
            check_labels(labels, subject.built)
            loaded = load(subject, request, self.backend, labels)
        for note in subject.built.notes:
            self._note(note)
        if subject.built.weights["origin"] == "random":
            self._note("the weights are random (no --pretrained, no --checkpoint)")
        if request.shared["random_calibration"]:
            self._note("calibrated on synthetic images, which are not what the file will see")
        return subject, loaded

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.watch.reporter.note(text)

    def _convert(self, loaded: LoadedModel, context: ExportContext) -> Artifact:
        try:
            with fresh():
                artifact = self.backend.export(loaded, self.request, context)
        except (TimmxError, OSError):
            raise
        except (Exception, SystemExit) as error:  # a module's code runs again where it is captured
            raise ExportError(
                f"{self.backend.name} could not convert the model: "
                f"{type(error).__name__}: {first_line(error, 300)}"
            ) from error
        check_artifact(artifact, self.backend, self.staging.path)
        for note in artifact.notes:
            self._note(note)
        return artifact

    def _manifest(
        self, subject: Subject, loaded: LoadedModel, artifact: Artifact, context: ExportContext
    ) -> dict[str, Any]:
        distributions = {"timmx-core", "timm", "torch", *self._made_with(self.backend.name)}
        # How the file was run to be verified is not of the file, and another machine differs.
        running = {option.name for option in self.backend.options if option.phase == "run"}
        shaping = {n: v for n, v in self.request.options.items() if n not in running}
        return manifests.build(
            replace(self.request, options=shaping),
            subject.built,
            artifact,
            subject.own,
            subject.recipe,
            subject.digest,
            loaded.labels,
            manifests.versions_of(distributions),
            context.calibration_report,
            self._content_digest(artifact),
        )

    def _content_digest(self, artifact: Artifact) -> str | None:
        try:
            return self.backend.content_digest(artifact.primary)
        except (TimmxError, OSError):
            raise
        except Exception as error:
            raise ExportError(
                f"{self.backend.name} could not read the file that it made: "
                f"{first_line(error, 300)}"
            ) from error

    def _made_with(self, format: str) -> Iterator[str]:
        """The distributions of a format and of those that it derives from."""
        backend = self.manager.backend(format)
        yield from requirement_names(backend)
        row = self.manager.row_of(format)
        if row is not None and row.distribution:
            yield row.distribution
        for name in backend.derives:
            yield from self._made_with(name)

    def _embed(self, artifact: Artifact, manifest: Mapping[str, Any]) -> None:
        data = manifests.dump_readable(manifest, "manifest")
        try:
            embedded = self.backend.embed(artifact, data)
            intact = not embedded or self.backend.read(artifact.primary) == data
        except (TimmxError, OSError):
            raise
        except Exception as error:
            raise ExportError(
                f"{self.backend.name} could not embed the manifest: {first_line(error, 300)}"
            ) from error
        if not intact:
            raise ExportError(f"the manifest that {self.backend.name} embedded cannot be read back")

    def _check_content(self, artifact: Artifact, manifest: Mapping[str, Any]) -> None:
        """The manifest has gone in, and what the file computes is what it was.

        :raises ExportError: its digest is another one now.
        """
        if self._content_digest(artifact) != manifest["content_sha256"]:
            raise ExportError(
                f"embedding the manifest changed more of the file than {self.backend.name} "
                "leaves out of its digest"
            )

    def _verify(
        self, subject: Subject, loaded: LoadedModel, artifact: Artifact, worker: Worker | None
    ) -> Verdict:
        from timmx_core.verification.judge import verify_artifact

        shared = self.request.shared
        if not shared["verify"]:
            return Verdict("not verified", "--no-verify")
        own = options.run_options(
            self.backend,
            {
                o.name: self.request.options[o.name]
                for o in self.backend.options
                if o.phase == "run"
            },
        )
        return verify_artifact(
            self.backend,
            artifact,
            subject.references,
            subject.pixels,
            self.request.precision.floor_db,
            options=own,
            backend_of=self.manager.backend,
            scratch=self.staging.path / "verification",
            timeout=shared["verify_timeout"],
            labels=loaded.labels,
            floor_limit=shared["floor"],
            worker=worker,
        )

    def _finish(
        self, artifact: Artifact, manifest: Mapping[str, Any], verdict: Verdict
    ) -> ExportResult:
        members = publishing.member_digests(artifact.primary, artifact.companions)
        members = _renamed(members, artifact.primary.name, self.target.name)
        record = manifests.make_record(manifest, verdict, members)
        record_file = self.staging.path / "record.json"
        record_file.write_bytes(manifests.dump_readable(record, "record"))
        self._refuse_bad(artifact, manifest, verdict, record_file)
        size = publishing.size_of((artifact.primary, *artifact.companions))
        with held_back():
            companions = publishing.publish(
                artifact.primary,
                artifact.companions,
                record_file,
                self.target,
                naming=Naming.of(self.backend),
                overwrite=self.request.shared["overwrite"],
            )
            self.staging.published = True
        return ExportResult(
            path=self.target,
            verdict=verdict,
            manifest=manifest,
            record=record,
            size=size,
            companions=companions,
            notes=tuple(self.notes),
            seconds=self.watch.seconds,
        )

    def _refuse_bad(
        self,
        artifact: Artifact,
        manifest: Mapping[str, Any],
        verdict: Verdict,
        record_file: Path,
    ) -> None:
        """Raise unless this verdict is to be published.

        :raises VerificationError: it is not; `--keep-failed` has the file then.
        """
        shared = self.request.shared
        accepted = {"verified", "not verified", "not verifiable here"}
        if shared["accept_inconclusive"]:
            accepted.add("inconclusive")
        if shared["require_verified"]:
            accepted = {"verified"}
        if verdict.status in accepted:
            return
        kept = None
        if shared["keep_failed"]:
            folder = Path(shared["keep_failed"])
            kept = publishing.keep(artifact.primary, artifact.companions, record_file, folder)
        raise VerificationError(
            f"{verdict.status}: {verdict.reason}",
            advise(verdict, self.backend, self.request, manifest, kept),
            verdict,
        )


def requirement_names(backend: Backend) -> set[str]:
    """The distributions that a format imports, without their versions."""
    from packaging.requirements import Requirement

    return {Requirement(text).name for text in backend.requires}


def _renamed(members: Mapping[str, str], staged: str, final: str) -> dict[str, str]:
    """Members by the names that they have once published."""
    return {
        final + name.removeprefix(staged) if name.split("/")[0] == staged else name: digest
        for name, digest in members.items()
    }


__all__ = ["check_model", "resolve_source", "run_export"]
