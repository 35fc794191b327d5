"""The Python API: what the command line does, with the same options, defaults and validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.backend import LoadedModel
from timmx_core.errors import (
    ArtifactError,
    OutputError,
    RequestError,
    TimmxError,
    VerificationError,
)
from timmx_core.files.inspection import inspect_file
from timmx_core.files.inspection import snippet as make_snippet
from timmx_core.plugins.format_json import DescribedBackend
from timmx_core.plugins.manager import PluginManager, get_manager
from timmx_core.process.captured_output import Noise
from timmx_core.process.state import left_as_it_was
from timmx_core.progress import Reporter, SilentReporter
from timmx_core.request import options as option_data
from timmx_core.results import ExportResult, Inspection, Verdict

if TYPE_CHECKING:
    import torch

    from timmx_core.plugins.isolated import IsolatedPlugin


def export(
    format: str,
    model: str | torch.nn.Module,
    *,
    reporter: Reporter | None = None,
    verbose: bool = False,
    manager: PluginManager | None = None,
    **options: Any,
) -> ExportResult:
    """Export a model to a verified file.

    A format with an environment of its own is exported there, in another process. Of the others,
    one export at a time runs in a process: threads wait for each other.

    :param format: "onnx", ...; see `timmx plugins list`.
    :param model: a timm name, `hf-hub:org/name`, `local-dir:path`, or a module of your own, which
        is not changed and needs `input_size=(C, H, W)`; formats with an environment of their own
        take names only.
    :param verbose: let the converters' output through to stderr.
    :param options: those of `timmx <format> --help`, with underscores.
    :raises TimmxError: of the kind that fits; then no file is left behind.

    .. versionadded:: 0.1
    """
    from timmx_core.lifecycle.export import run_export

    manager = manager or get_manager()
    backend = manager.format(format)
    if isinstance(backend, DescribedBackend):
        from timmx_core.isolation.remote import export_there

        return export_there(
            manager.isolated[format],
            backend,
            model,
            options,
            manager=manager,
            reporter=reporter or SilentReporter(),
            verbose=verbose,
        )
    request = option_data.make_request(backend, model, options)
    with quiet(verbose):
        return run_export(backend, request, manager=manager, reporter=reporter or SilentReporter())


def export_all(
    model: str,
    formats: Sequence[str] | None = None,
    *,
    output: str | Path = ".",
    own_options: Mapping[str, Mapping[str, Any]] | None = None,
    jobs: int | None = None,
    manager: PluginManager | None = None,
    **options: Any,
) -> dict[str, ExportResult | TimmxError]:
    """Export a model to several formats at once, each in a process of its own.

    :param formats: None: all there are.
    :param output: the folder of the files.
    :param own_options: further options by format.
    :param jobs: the most at once; fewer where memory does not allow it.
    :return: by format, the result or what went wrong; one that fails stops none of the others.
    :raises TimmxError: where no export was begun: a model that is no name, an unknown format, a
        folder that cannot be made.

    .. versionadded:: 0.1
    """
    from timmx_core.isolation import run_all as together
    from timmx_core.request.model_argument import require_name

    require_name(model)
    manager = manager or get_manager()
    done = together.export_all(
        model,
        list(manager.formats) if formats is None else _names(formats),
        Path(output),
        options,
        own_options or {},
        manager=manager,
        jobs=jobs,
    )
    return {job.format: job.outcome for job in done if job.outcome is not None}


def _names(formats: Iterable[str]) -> list[str]:
    """:raises RequestError: it is one name, whose letters would be taken for names."""
    if isinstance(formats, str):
        raise RequestError(f"formats is a list of names, not {formats!r}", f'["{formats}"]')
    return list(formats)


@contextmanager
def quiet(verbose: bool) -> Iterator[Noise]:
    """Converters' noise in a log, which is kept where something of theirs goes wrong.

    The error's `log_path` and `log_tail` lead to it. One thread at a time is in here; the others
    wait. Afterwards the process is as it was.
    """
    with left_as_it_was(), Noise(verbose=verbose) as noise:
        try:
            yield noise
        except (RequestError, ArtifactError, OutputError):
            raise
        except TimmxError as error:
            error.log_tail = noise.tail()
            error.log_path = noise.keep(cause_of(error))
            raise


def cause_of(error: BaseException) -> str:
    """The traceback behind an error that explains another library's; empty without one."""
    import traceback

    if error.__cause__ is None:
        return ""
    return "".join(traceback.format_exception(error.__cause__))


def verify(
    path: str | Path,
    *,
    probe_data: str | Path | None = None,
    model: str | torch.nn.Module | None = None,
    checkpoint: str | Path | None = None,
    timeout: float = 900,
    run_options: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    verbose: bool = False,
    manager: PluginManager | None = None,
    built_from: str | Path | None = None,
    floor: float | None = None,
) -> Verdict:
    """Check a file as it is now against the references in its manifest.

    Needs neither torch nor the weights, only the format's runtime.

    :param probe_data: a folder of images to verify with as well; needs `model`.
    :param built_from: a file of timmx whose manifest holds for this one too, which another program
        made of it: an engine of the ONNX file, a graph that was simplified.
    :param floor: decibels of SNR that suffice, where the file's precision asks for more.
    :param timeout: seconds after which the file has failed, at least 1.
    :raises RequestError: a path that is none, a timeout that is no time.
    :raises ArtifactError: the file cannot be read.

    .. versionadded:: 0.1
    """
    from timmx_core.lifecycle.verify_file import verify_file

    floor = option_data.coerce(option_data.shared_option("floor"), floor)
    timeout = _seconds(timeout)
    path, built_from = _path(path), None if built_from is None else _path(built_from)
    probe_data = None if probe_data is None else _path(probe_data)
    checkpoint = None if checkpoint is None else _path(checkpoint)
    manager = manager or get_manager()
    if probe_data is not None and model is None:
        raise RequestError(
            "images of your own need PyTorch's answer to them",
            "name the model with --model (and --checkpoint), or leave --probe-data out",
        )
    if probe_data is None and (model is not None or checkpoint is not None):
        raise RequestError("--model and --checkpoint go with --probe-data")
    plugin = _owner(path if built_from is None else built_from, manager)
    if plugin is not None:
        if model is not None and not isinstance(model, str):
            raise RequestError(
                f"{path} is verified in the environment of {plugin.name}, where a module of this "
                "process cannot be taken",
                "name the model",
            )
        from timmx_core.isolation.remote import verify_there

        options = dict(run_options or {}) | {
            "probe_data": probe_data,
            "model": model,
            "checkpoint": checkpoint,
            "verify_timeout": math.ceil(timeout),
            "built_from": built_from,
            "floor": floor,
        }
        return verify_there(
            plugin, path, options, reporter=reporter or SilentReporter(), verbose=verbose
        )
    with quiet(verbose):
        return verify_file(
            path,
            manager,
            reporter or SilentReporter(),
            probe_data=probe_data,
            model=model,
            checkpoint=None if checkpoint is None else str(checkpoint),
            timeout=timeout,
            given=run_options or {},
            built_from=built_from,
            floor=floor,
        )


def inspect(path: str | Path, *, manager: PluginManager | None = None) -> Inspection:
    """What a file says of itself, and what the record beside it adds.

    :raises RequestError: it is no path.
    :raises ArtifactError: it cannot be read, or is not timmx's.

    .. versionadded:: 0.1
    """
    path = _path(path)
    manager = manager or get_manager()
    plugin = _owner(path, manager)
    if plugin is not None:
        from timmx_core.isolation.remote import inspect_there

        return inspect_there(plugin, path)[0]
    return inspect_file(path, manager.backends.values())


def inspect_with_snippet(
    path: str | Path, *, manager: PluginManager | None = None
) -> tuple[Inspection, str]:
    """`inspect` and `snippet` of a file, with one call of its format's environment.

    :raises ArtifactError: it cannot be read, is not timmx's, or does not run from Python.
    """
    manager = manager or get_manager()
    plugin = _owner(Path(path), manager)
    if plugin is not None:
        from timmx_core.isolation.remote import inspect_there

        inspection, source = inspect_there(plugin, Path(path), snippet=True)
        return inspection, source or ""
    inspection = inspect(path, manager=manager)
    return inspection, snippet(inspection, manager=manager)


def _path(value: Any) -> Path:
    """:raises RequestError: it is none."""
    try:
        return Path(value)
    except TypeError:
        raise RequestError(
            f"a path is a str or a pathlib.Path, not {type(value).__name__}",
            "os.fsdecode gives the str" if isinstance(value, bytes) else "",
        ) from None


def _seconds(value: Any) -> float:
    """:raises RequestError: no number, or none that time can be measured by."""
    option = replace(option_data.shared_option("verify_timeout"), type="float")
    seconds: float = option_data.coerce(option, value)
    return seconds


def _owner(path: Path, manager: PluginManager) -> IsolatedPlugin | None:
    """The environment that a file is taken to; None: it is read here."""
    if not manager.isolated:
        return None
    from timmx_core.isolation.remote import owner_of

    return owner_of(path, manager)


def snippet(inspection: Inspection, *, manager: PluginManager | None = None) -> str:
    """Python source that preprocesses an image and runs the file.

    :raises PluginError: the file's format is not installed.

    .. versionadded:: 0.1
    """
    manager = manager or get_manager()
    plugin = manager.isolated.get(inspection.format)
    if plugin is not None:
        from timmx_core.isolation.remote import inspect_there

        return inspect_there(plugin, inspection.path, snippet=True)[1] or ""
    return make_snippet(inspection, manager.backend(inspection.format))


def load_model(
    model: str | torch.nn.Module, *, verbose: bool = False, **options: Any
) -> LoadedModel:
    """The model as a format would be given it: in eval mode, folded, wrapped in its input contract.

    :param options: the shared options of every format, with underscores.
    :raises ModelError: unknown, or its weights cannot be had.

    .. versionadded:: 0.1
    """
    from timmx_core.lifecycle.export import check_model, resolve_source
    from timmx_core.lifecycle.reference import load, make_subject
    from timmx_core.models.plain import PLAIN

    request = option_data.make_request(PLAIN, model, options)
    request = resolve_source(request, get_manager())
    check_model(request)
    with quiet(verbose):
        from timmx_core.models.labels import check_labels, read_labels
        from timmx_core.process.torch_state import fresh

        with fresh(request.shared["device"]):
            subject = make_subject(request, PLAIN.build_options(request))
            labels = read_labels(request.shared["labels"])
            check_labels(labels, subject.built)
            return load(subject, request, PLAIN, labels)


def describe_model(model: str, **options: Any) -> dict[str, Any]:
    """Parameters, input contract, classes and weights of a model, without building its weights.

    :raises ModelError: unknown.
    :raises RequestError: it is no name.

    .. versionadded:: 0.1
    """
    from importlib.util import find_spec

    from timmx_core.models.facts import describe
    from timmx_core.request.model_argument import require_name

    require_name(model)
    plugin = None if find_spec("timm") is not None else _with_timm(get_manager())
    if plugin is not None and not options:
        from timmx_core.isolation.remote import ask

        return ask(plugin, ["info", "--json", "--", model])
    with left_as_it_was():
        return describe(model, options)


def _with_timm(manager: PluginManager) -> IsolatedPlugin | None:
    """An environment that has timm, for a host that has none."""
    for plugin in manager.isolated_plugins:
        places = (folder / "timm" for folder in plugin.environment.site_packages)
        if not plugin.row.troubled and any(place.is_dir() for place in places):
            return plugin
    return None


def exit_code(verdict: Verdict, *, require_verified: bool = False) -> int:
    """0 unless the file is wrong or nothing could be concluded.

    :param require_verified: 0 for nothing but `verified`.
    """
    good = verdict.status not in ("failed", "inconclusive")
    if require_verified:
        good = verdict.status == "verified"
    return 0 if good else VerificationError.exit_code
