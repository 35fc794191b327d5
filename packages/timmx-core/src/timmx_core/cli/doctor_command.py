"""`timmx doctor`."""

from __future__ import annotations

from typing import Any

import click

from timmx_core.cli.settings import json_option, print_json, print_lines
from timmx_core.cli.terminal import columns

HEADER = ("FORMAT", "FROM", "IMPORTABLE", "EXPORTS HERE", "RUNS HERE")


@click.command("doctor", params=[json_option()])
def doctor_command(as_json: bool) -> None:
    """Find out what works here, and what does not.

    Environments that plugins have to themselves are asked, too.

    Python, torch, timm, CUDA, and for each format whether it can export and run files here.
    """
    from timmx_core.doctor.report import examine
    from timmx_core.plugins.manager import get_manager

    report = examine(get_manager())
    if as_json:
        print_json(report)
    else:
        print_lines(_lines(report))


def _lines(report: dict[str, Any]) -> list[str]:
    timmx, python, system = report["timmx"], report["python"], report["platform"]
    facts: list[tuple[str, ...]] = [
        ("timmx", f"{timmx['version']} (home: {timmx['home']})"),
        ("python", f"{python['version']} ({python['executable']})"),
        ("platform", system["system"]),
        *((name, _library_text(facts)) for name, facts in report["libraries"].items()),
        ("cuda", _cuda_text(report["libraries"]["torch"])),
        *((f"of {row['name']}", _environment_text(row)) for row in report["environments"]),
    ]
    return [*columns(facts), "", *_format_lines(report["formats"]), "", *_problem_lines(report)]


def _library_text(facts: dict[str, Any]) -> str:
    if facts["installed"] is None:
        return "not installed"
    return str(facts["installed"]) + ("" if facts["importable"] else " (cannot be imported)")


def _environment_text(row: dict[str, Any]) -> str:
    """An environment of one plugin."""
    if row["python"] is None:
        return f"does not answer ({row['path']})"
    torch = f"torch {row['torch']}" if row["torch"] else "no torch"
    return f"python {row['python']}, {torch} ({row['path']})"


def _cuda_text(torch: dict[str, Any]) -> str:
    cuda = torch.get("cuda")
    if not cuda:
        return "unknown, torch cannot be imported"
    if cuda["available"]:
        return f"{cuda['built']}: {', '.join(cuda['devices'])}"
    built = f"built for CUDA {cuda['built']}" if cuda["built"] else "a CPU build"
    return f"no device (torch is {built})"


def _format_lines(formats: list[dict[str, Any]]) -> list[str]:
    if not formats:
        return ["no format is installed: timmx plugins install <format>"]
    head, *body = columns([HEADER, *map(_cells, formats)])
    lines = [head]
    for entry, line in zip(formats, body, strict=True):
        lines.append(line)
        lines += [f"    {error}" for error in entry["errors"]]
        if entry["remedy"]:
            lines.append(f"    -> {entry['remedy']}")
    return lines


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    answers = (entry["importable"], entry["can_export"], entry["can_run"])
    source = f"{entry['distribution']} {entry['version']}".strip() or "-"
    source += " (isolated)" if entry["environment"] else ""
    return (entry["name"], source, *("yes" if answer else "no" for answer in answers))


def _problem_lines(report: dict[str, Any]) -> list[str]:
    if not report["problems"]:
        return ["no problems found"]
    lines = []
    for problem in report["problems"]:
        lines.append(f"problem: {problem['subject']}: {problem['message']}")
        if problem["remedy"]:
            lines.append(f"    -> {problem['remedy']}")
    return lines
