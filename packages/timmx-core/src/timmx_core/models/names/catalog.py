"""The names that timm knows, read from its sources: neither timm nor torch is imported.

Answers are kept in the cache folder under a fingerprint of timm's sources, so that completion and
near matches cost milliseconds.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from timmx_core.errors import MissingDependency
from timmx_core.models.names import pretrained_configs
from timmx_core.process.paths import cache_dir
from timmx_core.reading.regular import read_regular

REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)", re.MULTILINE)
CACHE_VERSION = 1
ASK_TIMM = "import json, timm; print(json.dumps(timm.list_models(pretrained=True)))"


@cache
def model_names() -> list[str]:
    """Every architecture, as `timm.list_models()` gives them and in its order.

    :raises MissingDependency: timm is not installed.
    """
    return _cached("models", _scan_models)


@cache
def pretrained_names() -> list[str]:
    """What has published weights, as `timm.list_models(pretrained=True)` gives it.

    :raises MissingDependency: timm is not installed.
    """
    return _cached("pretrained", _scan_pretrained)


def near_matches(name: str, n: int = 3) -> list[str]:
    """The known names that a mistyped one may have meant, best first; none where timm is not.

    A tag is looked for among the tags of its architecture, an architecture among architectures.
    """
    try:
        names = model_names()
        architecture, _, tag = name.partition(".")
        if tag and architecture in names:
            names = [p for p in pretrained_names() if p.startswith(f"{architecture}.")]
            architecture = name
    except MissingDependency:
        return []
    wanted = architecture.lower().replace("-", "_")
    # What begins like the word comes first: difflib alone prefers short anagrams.
    begins = [known for known in names if len(wanted) > 2 and known.startswith(wanted)]
    near = difflib.get_close_matches(wanted, names, n=n, cutoff=0.6)
    return list(dict.fromkeys([*begins, *near]))[:n]


def match(names: list[str], pattern: str) -> list[str]:
    """The names that fit a glob, or hold the pattern where it is no glob; case does not matter."""
    from fnmatch import fnmatchcase

    wanted = pattern.lower()
    if any(sign in wanted for sign in "*?["):
        return [name for name in names if fnmatchcase(name.lower(), wanted)]
    return [name for name in names if wanted in name.lower()]


def timm_folder() -> Path:
    """Where timm's package lies.

    :raises MissingDependency: timm is not installed.
    """
    try:
        spec = importlib.util.find_spec("timm")
    except (ImportError, ValueError):
        spec = None
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    folders = (*map(Path, locations), *_isolated_folders())
    folder = next((folder for folder in folders if (folder / "models").is_dir()), None)
    if folder is None:
        raise MissingDependency("timm is not installed", 'pip install "timmx-core[timm]"')
    return folder


def _isolated_folders() -> Iterator[Path]:
    """timm in the environments of plugins, for a host that has none."""
    from timmx_core.plugins.manager import get_manager

    for plugin in get_manager().isolated_plugins:
        yield from (folder / "timm" for folder in plugin.environment.site_packages)


def natural_key(name: str) -> list[int | str]:
    """timm's own order: numbers by value."""
    return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", name.lower())]


def _sources() -> list[Path]:
    return sorted((timm_folder() / "models").glob("*.py"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _scan_models() -> list[str]:
    names = {name for path in _sources() for name in REGISTERED.findall(_read(path))}
    return sorted(names, key=natural_key)


def _scan_pretrained() -> list[str]:
    names: set[str] = set()
    for path in _sources():
        source = _read(path)
        registered = set(REGISTERED.findall(source))
        if not registered:
            continue
        try:
            names |= pretrained_configs.with_weights(source, registered)
        except pretrained_configs.UnreadableSourceError:
            return _ask_timm()
    return sorted(names, key=natural_key)


def _ask_timm() -> list[str]:
    """The slow and certain way, for a timm whose sources are written in a new manner.

    :raises MissingDependency: timm cannot be imported either.
    """
    done = subprocess.run(
        [*_python_of_timm(), "-c", ASK_TIMM], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MissingDependency(f"timm cannot be imported: {last}", "see timmx doctor")
    return [str(name) for name in json.loads(done.stdout.strip().splitlines()[-1])]


def _python_of_timm() -> list[str]:
    """The Python that timm was found for; it looks for nothing in the working folder."""
    from timmx_core.plugins.manager import get_manager

    folder = timm_folder()
    owners = [p.environment for p in get_manager().isolated_plugins]
    owner = next((o for o in owners if folder.is_relative_to(o.folder)), None)
    return [sys.executable, "-P"] if owner is None else [str(owner.python), "-I"]


def _fingerprint() -> str:
    """Changes with every change of timm's sources, also in an editable installation."""
    digest = hashlib.sha256()
    with os.scandir(timm_folder() / "models") as entries:
        files = sorted((e.name, e.stat()) for e in entries if e.name.endswith(".py"))
    for name, stat in files:
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return f"{CACHE_VERSION}-{digest.hexdigest()[:32]}"


def _cached(kind: str, compute: Callable[[], list[str]]) -> list[str]:
    path = cache_dir() / f"timm-{kind}.json"
    fingerprint = _fingerprint()
    known = _read_cache(path, fingerprint)
    if known is None:
        known = compute()
        _write_cache(path, {"fingerprint": fingerprint, "names": known})
    return known


def _read_cache(path: Path, fingerprint: str) -> list[str] | None:
    try:
        data = json.loads(read_regular(path))
        names = data["names"] if data["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, torn or of another version: it is made again
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names


def _write_cache(path: Path, data: object) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    except OSError:
        return  # a home that cannot be written to costs time, nothing else
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
