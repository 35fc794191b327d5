"""What a format says of this machine, or of a model, before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from timmx_core.backend import Backend
from timmx_core.errors import TimmxError
from timmx_core.request.options import make_request


@dataclass(frozen=True)
class Answer:
    """Whether something can be done; where not, why, and what to do about it."""

    ok: bool
    error: str = ""
    remedy: str = ""


def assess_requirements(backend: Backend) -> Answer:
    """Whether the distributions that the format imports are installed in versions it takes."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in backend.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            return Answer(False, f"the plugin's requirement {text!r} cannot be read: {error}")
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            return Answer(False, f"{requirement.name} is not installed", f'pip install "{text}"')
        if not requirement.specifier.contains(version, prereleases=True):
            return Answer(
                False,
                f"{requirement.name} {version} is installed, and {text} is needed",
                f'pip install "{text}"',
            )
    return Answer(True)


def assess_export(backend: Backend, model: str | None = None) -> Answer:
    """Whether the format can export here: at all, or this model with its defaults."""
    try:
        request = None if model is None else make_request(backend, model, {})
        backend.check_export(request)
    except TimmxError as error:
        return Answer(False, error.message, error.hint)
    except Exception as error:  # noqa: BLE001 (a plugin's code raises what it likes)
        return Answer(False, f"its check failed with {type(error).__name__}: {error}")
    return Answer(True)


def assess_run(backend: Backend) -> Answer:
    """Whether a file of the format can be run, and so verified, on this machine."""
    try:
        backend.check_run()
    except TimmxError as error:
        return Answer(False, error.message, error.hint)
    except Exception as error:  # noqa: BLE001 (a plugin's code raises what it likes)
        return Answer(False, f"its check failed with {type(error).__name__}: {error}")
    return Answer(True)
