"""Nothing is left behind when something goes wrong, whatever it is and whenever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from timmx_core.backend import Artifact, Backend, Context, ExportRequest, LoadedModel
from timmx_core.errors import ExportError, OutputError, TimmxError
from timmx_core.testing.case import Case
from timmx_core.testing.lab import Lab
from timmx_core.testing.watching import Watch


def _fails_after_converting(lab: Lab) -> Backend:
    def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        lab.backend.export(model, request, context)
        raise RuntimeError("injected")

    return lab.tampered(export=export)


def _fails_before_embedding(lab: Lab) -> Backend:
    def embed(*_: object) -> bool:
        raise RuntimeError("injected")

    return lab.tampered(embed=embed)


def _fills_the_disk(lab: Lab) -> Backend:
    def embed(artifact: Artifact, manifest: bytes) -> bool:
        lab.backend.embed(artifact, manifest)
        raise OSError(28, "No space left on device")

    return lab.tampered(embed=embed)


class _Failing:
    """A context whose first stage in which something was written ends in a failure."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with self._context.stage(name):
            yield
            self._fail()

    def derive(self, *arguments: Any, **options: Any) -> Artifact:
        artifact = self._context.derive(*arguments, **options)
        self._fail()
        return artifact

    def _fail(self) -> None:
        if any(self._context.staging.iterdir()):
            raise RuntimeError("injected")


def _fails_while_converting(lab: Lab) -> Backend:
    def export(model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        lab.backend.export(model, request, cast("Context", _Failing(context)))
        pytest.skip("no stage of its export ends with something written")

    return lab.tampered(export=export)


FAULTS: dict[str, tuple[Callable[[Lab], Backend], type[TimmxError]]] = {
    "while converting": (_fails_while_converting, ExportError),
    "after converting": (_fails_after_converting, ExportError),
    "while embedding": (_fails_before_embedding, ExportError),
    "on a full disk": (_fills_the_disk, OutputError),
}


class FailureTests(Case):
    """Exports into which a failure is injected."""

    @pytest.mark.parametrize("moment", FAULTS)
    def test_nothing_is_left_after_a_failure(
        self, lab: Lab, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No file, no companion, no staging folder; and the error is one of timmx's own."""
        from timmx_core.testing.models import tiny_cnn

        lab.require_plain()
        make, error = FAULTS[moment]
        folder = lab.fresh("failure")
        watch = Watch(tmp_path, monkeypatch, self.libraries_write)
        with pytest.raises(error):
            lab.export(tiny_cnn(), backend=make(lab), folder=folder, verify=False)
        assert [path.name for path in folder.iterdir()] == []
        left = watch.changes() if moment == "while converting" else []
        assert not left, f"it leaves {left[0]} behind"

    def test_the_process_is_as_it_was(self, lab: Lab) -> None:
        """What the caller has set is there after an export, as after one before it."""
        from timmx_core.testing.models import tiny_cnn
        from timmx_core.testing.process_state import changes, state

        lab.require_plain()  # what libraries set while they are imported is theirs
        before = state()
        lab.export(tiny_cnn(), verify=False)
        # Threads and processes of a library come and go; this is about what the caller has set.
        settings = {k: value for k, value in before.items() if k not in ("children", "threads")}
        left = changes(settings, state())
        assert not left, f"the export left {'; '.join(left)}"

    def test_an_old_file_survives_a_failure(self, lab: Lab) -> None:
        """--overwrite: what was there stays there until something better is complete."""
        from timmx_core.files.publishing import member_digests
        from timmx_core.testing.models import tiny_cnn

        lab.require_plain()
        folder = lab.fresh("old")
        old = lab.export(tiny_cnn(), folder=folder, verify=False)
        assert old.path is not None
        before = member_digests(old.path, old.companions)
        with pytest.raises(ExportError):
            lab.export(
                tiny_cnn(seed=1),
                backend=_fails_after_converting(lab),
                folder=folder,
                overwrite=True,
                verify=False,
            )
        assert member_digests(old.path, old.companions) == before

    def test_an_existing_file_is_not_replaced(self, lab: Lab) -> None:
        """Without --overwrite the export is refused before the slow part."""
        from timmx_core.testing.models import tiny_cnn

        result = lab.require_plain()
        assert result.path is not None
        with pytest.raises(OutputError, match="exists already"):
            lab.export(tiny_cnn(), folder=result.path.parent, verify=False)
