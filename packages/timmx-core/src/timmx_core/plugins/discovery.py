"""Which plugins are installed, from distributions' metadata alone: nothing is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

GROUP = "timmx"
OWN_PREFIX = "timmx"


@dataclass(frozen=True)
class Candidate:
    """An entry point of the group, not loaded yet.

    `load` imports the plugin and may raise whatever the plugin raises.
    """

    name: str
    distribution: str
    version: str
    module: str
    load: Callable[[], object]


@dataclass(frozen=True)
class Unreadable:
    """A distribution of ours whose metadata cannot be read, so that its plugin is unknown."""

    name: str
    error: str


def candidates() -> Iterator[Candidate | Unreadable]:
    """Every entry point of the group, in the order of their names."""
    try:
        found: list[Candidate | Unreadable] = [
            _candidate(point) for point in metadata.entry_points(group=GROUP)
        ]
    except Exception:  # noqa: BLE001
        # One distribution with broken metadata, whoever's it is, hides all the others there.
        found = list(_one_by_one())
    yield from sorted(found, key=lambda candidate: candidate.name)


def _one_by_one() -> Iterator[Candidate | Unreadable]:
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            name = distribution.name
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:  # noqa: BLE001 (whatever a broken file makes metadata raise)
            label = _folder_name(distribution)
            if label.startswith(OWN_PREFIX):
                yield Unreadable(label, f"its metadata cannot be read: {error}")
            continue
        if name and name not in seen:
            seen.add(name)
            yield from map(_candidate, points)


def _candidate(point: metadata.EntryPoint) -> Candidate:
    name, version = "", ""
    if point.dist is not None:
        try:
            name, version = point.dist.name or "", point.dist.version or ""
        except Exception:  # noqa: BLE001
            # The entry point is readable and the rest is not: the plugin still works.
            name = name or _folder_name(point.dist)
    return Candidate(point.name, name, version, point.value, point.load)


def _folder_name(distribution: metadata.Distribution) -> str:
    """`timmx-onnx` from its folder `timmx_onnx-0.1.0.dist-info`, where metadata does not say."""
    folder = getattr(distribution, "_path", None)
    stem = getattr(folder, "name", "").partition("-")[0]
    return str(stem).replace("_", "-")
