"""`timmx info MODEL`."""

from __future__ import annotations

from typing import Any

import click

from timmx_core.cli.completion import complete_models
from timmx_core.cli.settings import json_option, print_json, print_lines
from timmx_core.cli.summary import vector

MOST_TAGS = 8


@click.command("info", params=[json_option()])
@click.argument("model", metavar="MODEL", shell_complete=complete_models)
def info_command(model: str, as_json: bool) -> None:
    """Show what a model is, without loading weights.

    Parameters, input, classes, published weights, and what each installed format says of it.
    """
    from timmx_core import api

    facts = api.describe_model(model) | {"formats": _formats(model)}
    if as_json:
        print_json(facts)
    else:
        print_lines(_lines(facts))


def _formats(model: str) -> dict[str, dict[str, Any]]:
    """What each format says to an export of this model with its defaults."""
    from timmx_core.plugins.availability import assess_export
    from timmx_core.plugins.manager import get_manager

    manager = get_manager()
    return {
        name: {
            "error": assess_export(backend, model).error if name in manager.backends else "",
            "isolated": name in manager.isolated,
            "precisions": [p.name for p in backend.precisions],
        }
        for name, backend in manager.formats.items()
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    image, weights = facts["input"], facts["weights"]
    lines = [
        f"{'model':<11}{facts['name']}",
        f"{'parameters':<11}{facts['parameters'] / 1e6:.2f} M",
        f"{'task':<11}{_task(facts)}",
        f"{'input':<11}{image['channels']} x {image['height']} x {image['width']}"
        + (" (fixed size)" if image["fixed_size"] else ""),
        f"{'':<11}mean {vector(image['mean'])}, std {vector(image['std'])}",
        f"{'':<11}{image['interpolation']}, crop {image['crop_pct']:g} ({image['crop_mode']})",
        f"{'weights':<11}{_tags(weights['tags'])}",
    ]
    known = [key for key in ("license", "origin", "paper") if weights.get(key)]
    lines += [f"{'':<11}{key}: {weights[key]}" for key in known]
    for name, said in facts["formats"].items():
        where = " (isolated)" if said["isolated"] else ""
        verdict = said["error"] or f"can be tried{where}: {', '.join(said['precisions'])}"
        lines.append(f"{'format':<11}{name}: {verdict}")
    return lines


def _task(facts: dict[str, Any]) -> str:
    classes = facts["num_classes"]
    return f"{facts['task']}, {classes} classes" if classes else str(facts["task"])


def _tags(tags: list[str]) -> str:
    if not tags:
        return "none published"
    more = f" and {len(tags) - MOST_TAGS} more" if len(tags) > MOST_TAGS else ""
    return ", ".join(tags[:MOST_TAGS]) + more
