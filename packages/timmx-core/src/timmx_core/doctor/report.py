"""What works here, and what does not: Python, torch, timm, CUDA, plugins and their formats."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.errors import TimmxError
from timmx_core.plugins.availability import Answer, assess_export, assess_requirements, assess_run
from timmx_core.plugins.manager import PluginManager
from timmx_core.process.paths import home

if TYPE_CHECKING:
    from timmx_core.plugins.isolated import IsolatedPlugin

OWN_DISTRIBUTION = "timmx-core"
SCRIPT = "timmx"
IMPORT_SECONDS = 120
ENVIRONMENT_SECONDS = 3 * IMPORT_SECONDS
INSTALL_TIMM = 'pip install "timmx-core[timm]"'
MIXED_BUILDS = "operator torchvision::nms does not exist"


@dataclass(frozen=True)
class Problem:
    """Something that keeps timmx from working as it should, and its cure."""

    subject: str
    message: str
    remedy: str = ""


def examine(manager: PluginManager) -> dict[str, Any]:
    """Everything that doctor knows, JSON-able. Imports torch in another process only."""
    libraries = probe_libraries()
    environments = examine_environments(manager)
    # Where every format has an environment of its own, nothing is exported here.
    here = bool(manager.backends) or not manager.isolated_plugins
    problems = [
        *(_library_problems(libraries) if here else ()),
        *script_problems(),
        *_plugin_problems(manager),
        *_environment_problems(environments),
    ]
    formats = [_format(manager, name) for name in manager.backends]
    formats += [entry for environment in environments for entry in environment["formats"]]
    return {
        "timmx": {"version": metadata.version(OWN_DISTRIBUTION), "home": str(home())},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {"system": platform.platform(), "machine": platform.machine()},
        "libraries": libraries,
        "plugins": [asdict(row) for row in manager.rows],
        "formats": sorted(formats, key=lambda entry: str(entry["name"])),
        "environments": environments,
        "problems": [asdict(problem) for problem in problems],
    }


def examine_environments(manager: PluginManager) -> list[dict[str, Any]]:
    """What doctor says in each environment of its own that can be started, all at once.

    A row each: `name`, `path`, `error`, `remedy`, `python`, `torch`, `formats`.
    """
    from concurrent.futures import ThreadPoolExecutor

    plugins = [plugin for plugin in manager.isolated_plugins if not plugin.row.troubled]
    if not plugins:
        return []
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(_environment, plugins))


def _environment(plugin: IsolatedPlugin) -> dict[str, Any]:
    from timmx_core.isolation.remote import ask

    row: dict[str, Any] = {
        "name": plugin.name,
        "path": str(plugin.entry.path),
        "error": "",
        "remedy": "",
        "python": None,
        "torch": None,
        "formats": [],
    }
    try:
        report = ask(plugin, ["doctor", "--json"], timeout=ENVIRONMENT_SECONDS)
        own = set(plugin.row.formats)
        found = [dict(entry) for entry in report["formats"] if entry["name"] in own]
        row["formats"] = [entry | {"environment": plugin.name} for entry in found]
        row["python"] = report["python"]["version"]
        row["torch"] = report["libraries"]["torch"]["installed"]
        problems = [p for p in report["problems"] if p["subject"] in ("torch", "timm")]
        if problems:
            again = f"timmx plugins remove {plugin.name}, and install it again"
            row |= {"error": problems[0]["message"], "remedy": again}
    except TimmxError as error:
        row |= {"error": error.message, "remedy": error.hint}
    except (KeyError, TypeError) as error:
        row |= {"error": f"its report cannot be read: {error!r}"}
    return row


def _environment_problems(environments: list[dict[str, Any]]) -> list[Problem]:
    from timmx_core.plugins.environments.environment import leftovers

    found = [
        Problem(f"environment of {row['name']}", row["error"], row["remedy"])
        for row in environments
        if row["error"]
    ]
    try:
        dead = leftovers()
    except TimmxError:
        return found  # the index is a problem of its own
    if dead:
        names = ", ".join(path.name for path in dead)
        text = f"left by an interrupted installation: {names}"
        found.append(Problem("environments", text, "timmx plugins repair"))
    return found


def probe_libraries() -> dict[str, dict[str, Any]]:
    """What becomes of importing torch, torchvision and timm, in a process that may die of it.

    By name: `installed` (a version or None), `importable`, `error`, and `cuda` for torch.
    """
    from timmx_core.doctor import runtime_probe

    done = _run_probe(str(runtime_probe.__file__))
    told = _last_words(done.output)
    result: dict[str, dict[str, Any]] = {}
    for name in runtime_probe.STEPS:
        facts = told.get(name, {})
        error = facts.get("error", "")
        if facts.get("started") or (not facts and _installed(name)):
            error = error or done.ending
        result[name] = {
            "installed": _installed(name),
            "importable": bool(facts) and not error,
            "error": error if _installed(name) else "",
        }
        if name == "torch":
            result[name]["cuda"] = facts.get("cuda")
    return result


@dataclass(frozen=True)
class _Probe:
    output: str
    ending: str  # how the process ended, where that was not well


def _run_probe(script: str) -> _Probe:
    try:
        done = subprocess.run(
            # Without the script's own folder, whose modules have names that others may have, too.
            [sys.executable, "-P", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=IMPORT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        # What was captured is bytes here, whatever the mode (and None where there was nothing).
        output = (error.stdout or b"").decode("utf-8", "replace")
        return _Probe(output, f"importing it took more than {IMPORT_SECONDS} s")
    if done.returncode < 0:
        return _Probe(done.stdout, f"importing it ended with {_signal_name(-done.returncode)}")
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return _Probe(
        done.stdout, f"importing it ended with exit code {done.returncode} {last}".strip()
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(output: str) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for line in output.splitlines():
        try:
            facts = json.loads(line)
            told[facts["library"]] = facts
        except (ValueError, KeyError, TypeError):
            continue  # a line that some library wrote to the descriptor itself
    return told


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _library_problems(libraries: dict[str, dict[str, Any]]) -> list[Problem]:
    if any(MIXED_BUILDS in facts["error"] for facts in libraries.values()):
        return [_mixed_builds(libraries)]
    problems = []
    for name in ("torch", "timm"):
        facts = libraries[name]
        if facts["installed"] is None:
            problems.append(Problem(name, f"{name} is not installed", INSTALL_TIMM))
        elif not facts["importable"]:
            remedy = f"pip install --force-reinstall {name}"
            problems.append(Problem(name, f"{name} cannot be imported: {facts['error']}", remedy))
    return problems


def _mixed_builds(libraries: dict[str, dict[str, Any]]) -> Problem:
    """A CPU-only torch beside a torchvision that was built for another one."""
    torch, vision = (libraries[name]["installed"] for name in ("torch", "torchvision"))
    return Problem(
        "torch",
        f"torch {torch} and torchvision {vision} are builds that do not fit together "
        f"({MIXED_BUILDS}), so timm cannot be imported",
        "install both from one place: pip install --force-reinstall torch torchvision, with the "
        "--index-url that torch came from if you chose one",
    )


def script_problems() -> list[Problem]:
    """Where the command `timmx` is not, or may not be, the one of this installation."""
    problems = []
    owners = {
        point.dist.name
        for point in metadata.entry_points(group="console_scripts", name=SCRIPT)
        if point.dist is not None
    }
    others = sorted(owners - {OWN_DISTRIBUTION})
    if others:
        names = ", ".join(others)
        problems.append(
            Problem(
                f"bin/{SCRIPT}",
                f"{names} installs a command {SCRIPT} too; the one installed last is the one "
                f"that runs{_whose_script()}",
                f"pip uninstall {' '.join(others)}, then pip install --force-reinstall --no-deps "
                f"{OWN_DISTRIBUTION}; python -m timmx_core always works",
            )
        )
    first = shutil.which(SCRIPT)
    own = _script_path()
    if first is not None and own is not None and Path(first).resolve() != own.resolve():
        problems.append(
            Problem(
                f"bin/{SCRIPT}",
                f"the command {SCRIPT} on PATH is {first}, which belongs to another environment",
                f"call {own}, or put {own.parent} first on PATH",
            )
        )
    return problems


def _script_path() -> Path | None:
    folder = Path(sysconfig.get_path("scripts"))
    candidates = [folder / SCRIPT, folder / f"{SCRIPT}.exe"]
    return next((path for path in candidates if path.exists()), None)


def _whose_script() -> str:
    path = _script_path()
    if path is None:
        return ""
    ours = b"timmx_core" in path.read_bytes()
    return f"; {path} is {'ours' if ours else 'not ours'}"


def _plugin_problems(manager: PluginManager) -> list[Problem]:
    return [
        Problem(f"plugin {row.name}", f"{row.label}: {row.error}", row.remedy)
        for row in manager.rows
        if row.troubled
    ]


def _format(manager: PluginManager, name: str) -> dict[str, Any]:
    backend = manager.backend(name)
    row = manager.row_of(name)
    requirements = assess_requirements(backend)
    export = assess_export(backend)
    if not requirements.ok:
        # The format's own remedy where it has one: an export names the same.
        remedy = export.remedy or requirements.remedy
        requirements = export = Answer(False, requirements.error, remedy)
    run = assess_run(backend)
    bad = next((answer for answer in (requirements, export, run) if not answer.ok), Answer(True))
    return {
        "name": name,
        "environment": "",
        "distribution": row.distribution if row else "",
        "version": row.version if row else "",
        "importable": requirements.ok,
        "can_export": export.ok,
        "can_run": run.ok,
        "errors": list(dict.fromkeys(a.error for a in (requirements, export, run) if not a.ok)),
        "remedy": bad.remedy,
    }
