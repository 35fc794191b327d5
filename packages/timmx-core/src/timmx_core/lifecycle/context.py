"""What core does for one format during one export: the contract's `Context`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import Artifact, Backend, Context, ExportRequest, LoadedModel, TensorSpec
from timmx_core.errors import ExportError
from timmx_core.files.ownership import Naming
from timmx_core.files.records import sha256
from timmx_core.progress import Stopwatch
from timmx_core.request import options
from timmx_core.request.shared_options import CALIBRATION_OPTIONS

if TYPE_CHECKING:
    import numpy as np

    from timmx_core.lifecycle.reference import Subject
    from timmx_core.plugins.manager import PluginManager


class ExportContext(Context):
    """Bound to one request; `calibration_report` says for the manifest what was calibrated with.

    :param primary: in a folder of staging that is this context's own.
    """

    def __init__(
        self,
        request: ExportRequest,
        manager: PluginManager,
        watch: Stopwatch,
        subject: Subject,
        loaded: LoadedModel,
        primary: Path,
    ) -> None:
        self.staging = primary.parent
        self.primary = primary
        self.calibration_report: Mapping[str, Any] | None = None
        self._request = request
        self._manager = manager
        self._watch = watch
        self._subject = subject
        self._loaded = loaded
        self._derived = 0

    def calibration(self, size: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
        """See `Context.calibration`."""
        from timmx_core.lifecycle.calibration import Calibration

        calibration = Calibration.of(self._request.shared, self._subject.built)
        self.calibration_report = calibration.report
        return calibration.batches(self._loaded.inputs[0], size)

    def probes(self, spec: TensorSpec) -> np.ndarray:
        """See `Context.probes`."""
        from timmx_core.models.inputs import pixels_to_input

        return pixels_to_input(self._subject.pixels[: self._subject.recipe.count], spec)

    def snr_db(self, outputs: Mapping[str, np.ndarray]) -> float:
        """See `Context.snr_db`."""
        from timmx_core.verification.measure import CAP_DB, measure, telling_db

        floor = self._request.precision.floor_db
        worst = CAP_DB
        for reference in self._subject.own:
            got = outputs.get(reference.name)
            row = None if got is None else measure(reference, got, 1, floor, "trial")
            worst = min(worst, -CAP_DB if row is None else telling_db(row))
        return worst

    @contextlib.contextmanager
    def stage(self, label: str) -> Iterator[None]:
        """See `Context.stage`."""
        with self._watch.stage(label):
            yield

    def derive(self, format: str, precision: str, **given: Any) -> Artifact:
        """See `Context.derive`."""
        from timmx_core.lifecycle.reference import load

        backend = self._manager.backend(format)
        request = self._request_for(backend, precision, given)
        backend.check_export(request)
        self._derived += 1
        folder = self.staging / f"derived{self._derived}"
        folder.mkdir()
        loaded = load(self._subject, request, backend, self._loaded.labels)
        primary = folder / (self.primary.stem + backend.suffixes[0])
        context = ExportContext(request, self._manager, self._watch, self._subject, loaded, primary)
        artifact = backend.export(loaded, request, context)
        check_artifact(artifact, backend, folder)
        return artifact

    def _request_for(
        self, backend: Backend, precision: str, given: Mapping[str, Any]
    ) -> ExportRequest:
        """The same request to another format, with that one's own options."""
        known = {option.name for option in options.options_of(backend)}
        if not any(p.calibrated for p in backend.precisions if p.name == precision):
            known -= CALIBRATION_OPTIONS
        shared = {n: v for n, v in self._request.shared.items() if n in known}
        request = options.make_request(
            backend, self._request.model, {**shared, "precision": precision, **given}
        )
        return replace(request, batch=self._request.batch)


def check_artifact(artifact: Artifact, backend: Backend, staging: Path) -> None:
    """The contract's word on artifacts: what lies in staging is as declared, the report is JSON."""
    try:
        json.dumps(dict(artifact.report))
    except (TypeError, ValueError) as error:
        raise ExportError(f"the plugin's report is not JSON: {error}") from error
    for path in (artifact.primary, *artifact.companions):
        if not path.exists() or not path.resolve().is_relative_to(staging.resolve()):
            raise ExportError(f"the plugin did not leave {path.name} in its staging folder")
    naming = Naming.of(backend)
    for path in artifact.companions:
        if not naming.fits(artifact.primary, path.name, sha256(path)):
            raise ExportError(
                f"the plugin left the companion {path.name}, whose name follows neither from "
                "companion_suffixes nor from hashed_companion_suffixes"
            )
    if artifact.primary.suffix not in backend.suffixes:
        raise ExportError(
            f"the plugin left {artifact.primary.name}, and its format is written to "
            f"{' or '.join(backend.suffixes)}: use context.primary"
        )
    if artifact.primary.is_dir() and artifact.primary.suffix not in backend.folder_suffixes:
        raise ExportError(
            f"the plugin wrote a folder, and {artifact.primary.suffix} is not in folder_suffixes"
        )
