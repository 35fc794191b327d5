"""What an environment says of itself as JSON, and a `Backend` made of it that can be asked.

The host keeps the description. Help, completion and the checks of a request are made from it, and
no environment is started for them.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from timmx_core.backend import (
    Artifact,
    Backend,
    Context,
    ExportRequest,
    LoadedModel,
    Option,
    Precision,
)
from timmx_core.errors import PluginError
from timmx_core.hookspecs import API_VERSION
from timmx_core.plugins.checks import InvalidBackendError, check_backend
from timmx_core.request.shared_options import SHARED_OPTIONS

if TYPE_CHECKING:
    from timmx_core.plugins.manager import PluginManager

PROTOCOL = 1  # of argv, exit codes and the JSON between a host and an environment
NAMES = (
    "suffixes",
    "folder_suffixes",
    "companion_suffixes",
    "hashed_companion_suffixes",
    "derives",
    "requires",
)


def describe_environment(manager: PluginManager) -> dict[str, Any]:
    """This environment, JSON-able."""
    return {
        "protocol": PROTOCOL,
        "api": API_VERSION,
        "core": metadata.version("timmx-core"),
        "python": platform.python_version(),
        "plugins": [
            {
                "name": row.name,
                "distribution": row.distribution,
                "version": row.version,
                "status": row.status,
                "error": row.error,
                "formats": list(row.formats),
            }
            for row in manager.rows
        ],
        "formats": [describe_format(backend) for backend in manager.backends.values()],
    }


def describe_format(backend: Backend) -> dict[str, Any]:
    """Everything about a format that is data; paths become text.

    :raises PluginError: something in it is no plain data.
    """
    facts = {
        "name": backend.name,
        "help": backend.help,
        **{name: list(getattr(backend, name)) for name in NAMES},
        "absorbs": sorted(backend.absorbs),
        "refuses": dict(backend.refuses),
        "implies": {name: dict(implied) for name, implied in backend.implies.items()},
        "precisions": [asdict(precision) for precision in backend.precisions],
        "options": [asdict(option) for option in backend.options],
    }
    try:
        described: dict[str, Any] = json.loads(json.dumps(facts, default=_path_text))
    except (TypeError, ValueError) as error:
        raise PluginError(f"format {backend.name} cannot be described: {error}") from None
    return described


def _path_text(value: object) -> str:
    """:raises TypeError: it is no path."""
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is no plain data")


class DescribedBackend(Backend):
    """A format that runs elsewhere: its options can be read and its requests checked here."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        known = {option.name for option in SHARED_OPTIONS}
        self.name = data["name"]
        self.help = data["help"]
        self.suffixes = tuple(data["suffixes"])
        self.folder_suffixes = tuple(data["folder_suffixes"])
        self.companion_suffixes = tuple(data["companion_suffixes"])
        self.hashed_companion_suffixes = tuple(data["hashed_companion_suffixes"])
        self.derives = tuple(data["derives"])
        self.requires = tuple(data["requires"])
        self.absorbs = frozenset(data["absorbs"])
        # A newer core over there may have shared options that this one does not offer.
        self.refuses = {n: why for n, why in data["refuses"].items() if n in known}
        self.implies = data["implies"]
        self.precisions = tuple(_made(Precision, item) for item in data["precisions"])
        self.options = tuple(_option(item) for item in data["options"])

    def export(self, model: LoadedModel, request: ExportRequest, context: Context) -> Artifact:
        """See `Backend.export`; it cannot be done in this process."""
        self.refuse()

    def open(self, path: Path, options: Mapping[str, Any]) -> NoReturn:
        """See `Backend.open`; it cannot be done in this process."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """:raises PluginError: always."""
        raise PluginError(
            f"{self.name} has an environment of its own and cannot be used from within this one",
            f"install its plugin here as well: timmx plugins install --here {self.name}",
        )


def read_formats(description: Mapping[str, Any], distribution: str) -> list[DescribedBackend]:
    """The formats that a distribution brings in an environment that describes itself so.

    :raises InvalidBackendError: the description makes no sense to this core.
    """
    try:
        own = {
            name
            for plugin in description["plugins"]
            if _same(plugin["distribution"], distribution) and plugin["status"] == "ok"
            for name in plugin["formats"]
        }
        found = [DescribedBackend(item) for item in description["formats"] if item["name"] in own]
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidBackendError(f"its description cannot be read: {error!r}") from None
    for backend in found:
        check_backend(backend)
    return found


def _same(one: str, other: str) -> bool:
    """Whether two spellings are of one distribution's name."""
    spellings = (name.lower().replace("_", "-").replace(".", "-") for name in (one, other))
    return len(set(spellings)) == 1


def _made(kind: Any, data: Mapping[str, Any]) -> Any:
    """A dataclass from JSON; what a newer core added to it is left out."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in names})


def _option(data: Mapping[str, Any]) -> Option:
    lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
    option: Option = _made(Option, {**data, **lists})
    return option
