"""One model to several formats at once, each in a process of its own.

A format with an environment of its own is exported there, another one by this environment's
Python. As many run at once as memory allows, and one that fails stops none of the others.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.errors import ExportError, RequestError, TimmxError
from timmx_core.files.output_path import default_name
from timmx_core.isolation.process import (
    GRACE,
    ISOLATED,
    end_children,
    isolated_command,
    own_command,
    run_child,
)
from timmx_core.isolation.remote import (
    clear_away,
    content_of,
    export_words,
    result_from_json,
)
from timmx_core.request.options import options_of
from timmx_core.results import ExportResult

if TYPE_CHECKING:
    from timmx_core.backend import Backend, ExportRequest
    from timmx_core.plugins.manager import PluginManager

GIB = 2**30
MEMORY = 2.0  # GiB that an export of a model of some 50 MB takes, by and large
SETTLE = 15.0  # seconds after which an export has taken most of the memory that it will
POLL = 0.1  # seconds


@dataclass
class Job:
    """One format's export. A reporter (`timmx_core.progress.Reporter`) of what it does."""

    format: str
    request: ExportRequest | None = None
    words: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    variables: dict[str, str] | None = None  # None: those of an isolated environment
    outcome: ExportResult | TimmxError | None = None
    began: float | None = None
    ended: float | None = None
    stages: list[tuple[str, float]] = field(default_factory=list)  # under way: label, since when
    done: list[tuple[str, float]] = field(default_factory=list)  # outermost ones: label, seconds
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """In a word or two."""
        if isinstance(self.outcome, ExportResult):
            return self.outcome.verdict.label
        if self.outcome is not None:
            return "failed"
        if self.began is None:
            return "waiting"
        # Another thread writes this.
        stages = list(self.stages)
        return stages[-1][0] if stages else "starting"

    @property
    def seconds(self) -> float:
        """Since it began, or that it took."""
        if self.began is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.began

    @property
    def exit_code(self) -> int:
        """What the export by itself would have given."""
        return self.outcome.exit_code if isinstance(self.outcome, TimmxError) else 0

    def started(self, label: str) -> None:
        """See `Reporter.started`."""
        self.stages.append((label, time.monotonic()))

    def finished(self, label: str, seconds: float) -> None:
        """See `Reporter.finished`."""
        if self.stages:
            self.stages.pop()
        if not self.stages:
            self.done.append((label, seconds))

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self.notes.append(text)


def export_all(
    model: str,
    formats: Sequence[str],
    folder: Path,
    options: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    *,
    manager: PluginManager,
    jobs: int | None = None,
    memory: float = MEMORY,
    verbose: bool = False,
    watch: Callable[[Sequence[Job]], None] = lambda _: None,
) -> list[Job]:
    """Export to every format; what became of each is in its job.

    :param options: for all formats.
    :param own: further ones by format.
    :param jobs: the most at once; None: one for each processor.
    :param memory: GiB to have free for each before it is begun; one is always under way.
    :param watch: called some times a second with the jobs.
    :raises RequestError: the formats make no sense.
    :raises PluginError, IsolationError: there is no such format, or it cannot be used.
    """
    if not formats:
        raise RequestError("there is no format to export to", "timmx plugins list")
    repeated = [name for name in formats if list(formats).count(name) > 1]
    if repeated:
        raise RequestError(f"{repeated[0]} is asked for twice")
    strangers = sorted(set(own) - set(formats))
    if strangers:
        raise RequestError(f"options for {strangers[0]}, which is not among the formats")
    backends = {name: manager.format(name) for name in formats}
    names = _file_names(model, backends)
    made = _make_folder(folder)
    todo = [
        _job(backend, model, dict(options) | dict(own.get(name, {})), folder / names[name], manager)
        for name, backend in backends.items()
    ]
    try:
        _run_all(todo, jobs or os.cpu_count() or 1, memory, manager, verbose, watch)
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # nothing was written
    return todo


def exit_code(jobs: Sequence[Job]) -> int:
    """That of the first export that failed, in the order that was asked for; else 0."""
    return next((job.exit_code for job in jobs if job.exit_code), 0)


def _file_names(model: str, backends: Mapping[str, Backend]) -> dict[str, str]:
    """A name for each file; formats that would write one name get their own name into theirs."""
    stem = default_name(model)
    kinds = {
        # Of companions with a digest in their name, equal names have equal bytes.
        name: {backend.suffixes[0], *backend.companion_suffixes}
        for name, backend in backends.items()
    }
    return {
        name: f"{stem}.{name}{backend.suffixes[0]}"
        if any(kinds[name] & kinds[other] for other in backends if other != name)
        else f"{stem}{backend.suffixes[0]}"
        for name, backend in backends.items()
    }


def _make_folder(folder: Path) -> bool:
    """Make it for all of them, since each alone would take it away with its own failure."""
    from timmx_core.files.staging import output_error

    if folder.is_dir():
        return False
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise output_error(error, folder) from error
    return True


def _job(
    backend: Backend, model: str, given: dict[str, Any], output: Path, manager: PluginManager
) -> Job:
    job = Job(backend.name)
    try:
        known = {option.name for option in options_of(backend)}
        if "output" not in known:
            raise RequestError(f"{backend.name} takes no --output")
        job.request, job.words = export_words(
            backend, model, given | {"output": str(output)}, manager
        )
    except TimmxError as error:
        job.outcome = error
        return job
    plugin = manager.isolated.get(backend.name)
    if plugin is not None:
        job.command = isolated_command(plugin.environment.python)
    else:
        job.command = own_command()
        job.variables = dict(os.environ) | {ISOLATED: "1"}
    return job


def _run_all(
    todo: Sequence[Job],
    most: int,
    memory: float,
    manager: PluginManager,
    verbose: bool,
    watch: Callable[[Sequence[Job]], None],
) -> None:
    waiting = [job for job in todo if job.outcome is None]
    running: dict[threading.Thread, Job] = {}
    try:
        _work_off(waiting, running, most, memory, manager, verbose, lambda: watch(todo))
    except BaseException:
        end_children()
        for thread in running:
            thread.join(2 * GRACE)
        raise


def _work_off(
    waiting: list[Job],
    running: dict[threading.Thread, Job],
    most: int,
    memory: float,
    manager: PluginManager,
    verbose: bool,
    watch: Callable[[], None],
) -> None:
    while waiting or running:
        for thread in [t for t in running if not t.is_alive()]:
            thread.join()
            _tell_observers(running.pop(thread), manager)
        while waiting and (not running or _may_begin(running.values(), most, memory)):
            job = waiting.pop(0)
            job.began = time.monotonic()
            thread = threading.Thread(target=_run, args=(job, verbose), daemon=True)
            running[thread] = job
            thread.start()
        watch()
        time.sleep(POLL)
    watch()


def _may_begin(running: Any, most: int, memory: float) -> bool:
    """Whether there is a processor, and memory beside what those under way will still take."""
    import psutil

    jobs = list(running)
    if len(jobs) >= most:
        return False
    growing = sum(1 for job in jobs if job.seconds < SETTLE)
    free = psutil.virtual_memory().available / GIB
    return bool(free >= (growing + 1) * memory)


def _run(job: Job, verbose: bool) -> None:
    """The life of a thread: nothing may escape it."""
    try:
        words = [*(["-v"] if verbose else []), *job.words]
        ending = run_child(
            job.command, words, reporter=job, variables=job.variables, verbose=verbose
        )
        content = content_of(ending, f"the export to {job.format}", job.format, ExportError)
        job.outcome = result_from_json(content)
    except TimmxError as error:
        job.outcome = error
        if job.request is not None:
            clear_away(job.request)
    except Exception as error:  # noqa: BLE001 (it is told as the failure of this format)
        job.outcome = TimmxError(f"{type(error).__name__}: {error}", "please report it")
    job.ended = time.monotonic()


def _tell_observers(job: Job, manager: PluginManager) -> None:
    if isinstance(job.outcome, ExportResult) and job.request is not None:
        job.notes += manager.export_finished(job.request, job.outcome)
