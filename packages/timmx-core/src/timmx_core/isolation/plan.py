"""What the resolver would change in an environment, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Change:
    """One distribution: `before` and `after` are versions, None where it is not there."""

    name: str
    before: str | None
    after: str | None
    source: str = ""  # a URL or path, where it comes from no index
    built: bool = False  # from source, for all that is known of where it comes from

    @property
    def text(self) -> str:
        """As in: torch 2.15.0 -> 2.14.1."""
        if self.before is None:
            return f"{self.name} {self.after}".strip()
        return f"{self.name} {self.before} -> {self.after or 'removed'}"


@dataclass(frozen=True)
class Plan:
    """All changes, by name."""

    changes: tuple[Change, ...]

    @property
    def added(self) -> list[Change]:
        """What is not there yet."""
        return [change for change in self.changes if change.before is None]

    @property
    def replaced(self) -> list[Change]:
        """What is there in another version, or would be removed."""
        return [change for change in self.changed if change.before is not None]

    @property
    def changed(self) -> list[Change]:
        """What would have another version than now; one that nobody can tell is none."""
        return [c for c in self.changes if c.after is None or (c.after and c.before != c.after)]

    def of(self, distribution: str) -> Change | None:
        """The change of one distribution; None where it stays as it is."""
        wanted = canonicalize_name(distribution)
        return next((c for c in self.changes if canonicalize_name(c.name) == wanted), None)


def broken_by(plan: Plan) -> list[str]:
    """What is installed in this environment and would no longer have what it requires.

    :return: a line each: "timmx-onnx 0.1.0 requires torch>=2.15, and torch would be 2.14.1".
    """
    after = {canonicalize_name(c.name): c.after for c in plan.changes}
    found = []
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or canonicalize_name(name) in after:
            continue
        for text in distribution.requires or ():
            requirement = _applicable(text)
            if requirement is None or canonicalize_name(requirement.name) not in after:
                continue
            version = after[canonicalize_name(requirement.name)]
            if not _fits(requirement, version):
                found.append(
                    f"{name} {distribution.version} requires {requirement.name}"
                    f"{requirement.specifier}, and {requirement.name} would be "
                    f"{version or 'removed'}"
                )
    return sorted(set(found))


def installed_version(distribution: str) -> str | None:
    """Of this environment."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def make_plan(installed: Mapping[str, str], wanted: Iterable[Change]) -> Plan:
    """Changes with the versions that are there now.

    :param installed: versions by canonical name.
    """
    changes = [
        replace(c, before=c.before or installed.get(canonicalize_name(c.name))) for c in wanted
    ]
    return Plan(tuple(sorted(changes, key=lambda c: c.name.lower())))


def versions_in(path: Iterable[Path | str] | None = None) -> dict[str, str]:
    """What is installed, by canonical name: in these folders, or in this environment."""
    if path is None:
        found = metadata.distributions()
    else:
        found = metadata.distributions(path=[str(folder) for folder in path])
    return {canonicalize_name(d.metadata["Name"]): d.version for d in found if d.metadata["Name"]}


def _applicable(text: str) -> Requirement | None:
    try:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            return None
    except (InvalidRequirement, UndefinedEnvironmentName):
        return None
    return requirement


def _fits(requirement: Requirement, version: str | None) -> bool:
    if version is None:
        return False
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True  # nothing can be said of it
