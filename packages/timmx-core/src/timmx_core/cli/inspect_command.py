"""`timmx inspect FILE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from timmx_core.cli.settings import json_option, print_json, print_lines, print_result, settings_of

if TYPE_CHECKING:
    from timmx_core.results import Inspection


@click.command("inspect", params=[json_option()])
@click.argument("file", metavar="FILE", type=click.Path())
@click.option(
    "--snippet",
    type=click.Choice(["python"]),
    metavar="python",
    help="Print the few lines that prepare an image and run the file.",
)
@click.pass_context
def inspect_command(ctx: click.Context, /, file: str, snippet: str | None, as_json: bool) -> None:
    """Show what an exported file says of itself, and whether it is still the one on record.

    Runs nothing of the file, and needs neither torch nor a converter. It describes a file, and
    leaves the judgement to verify.
    """
    from timmx_core import api

    inspection, source = api.inspect_with_snippet(file) if snippet else (api.inspect(file), None)
    if as_json:
        print_json(_to_json(inspection) | ({"snippet": source} if source is not None else {}))
    elif source is None:
        print_lines(_lines(inspection))
    else:
        for problem in inspection.problems:
            settings_of(ctx).terminal.note(problem)
        print_result(source)


def _to_json(inspection: Inspection) -> dict[str, Any]:
    from timmx_core.files.inspection import verdict_of

    return {
        "path": str(inspection.path),
        "format": inspection.format,
        "embedded": inspection.embedded,
        "intact": inspection.intact,
        "problems": list(inspection.problems),
        "verdict": verdict_of(inspection),
        "manifest": dict(inspection.manifest),
        "record": None if inspection.record is None else dict(inspection.record),
    }


def _lines(inspection: Inspection) -> list[str]:
    from timmx_core.cli.summary import port_lines, precision_line, verdict_lines
    from timmx_core.files.inspection import verdict_of
    from timmx_core.results import Verdict

    manifest = inspection.manifest
    lines = [
        f"{'file':<9}{inspection.path} ({inspection.format})",
        f"{'model':<9}{_model_text(manifest['model'])}",
        *port_lines(manifest),
        f"{'image':<9}{_image_text(manifest['preprocessing'])}",
        precision_line(manifest),
    ]
    if manifest.get("labels"):
        lines.append(f"{'labels':<9}{len(manifest['labels'])}, {manifest['labels'][0]!r} first")
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    lines.append(f"{'made by':<9}{versions}")
    lines += [f"{'note':<9}{note}" for note in manifest.get("notes", ())]
    lines.append(f"{'verdict':<9}{verdict_of(inspection)}")
    if inspection.record is not None and inspection.intact:
        recorded = Verdict.from_json(inspection.record["verdict"])
        lines += verdict_lines(recorded)[1:]
    if inspection.record is None:
        lines.append(f"{'':<9}there is no record beside the file; timmx verify checks it")
    if not inspection.embedded:
        lines.append(f"{'':<9}this is what the record says: {_unread(inspection.format)}")
    return lines + [f"{'problem':<9}{problem}" for problem in inspection.problems]


def _unread(format: str) -> str:
    from timmx_core.plugins.manager import get_manager

    if format in get_manager().formats:
        return "the file itself holds no manifest"
    return f"no plugin that is installed reads a file of {format}"


def _model_text(model: dict[str, Any]) -> str:
    text = f"{model['name']}, {model['parameters'] / 1e6:.1f} M parameters"
    weights = model["weights"]
    return f"{text}, weights: {weights['origin']}"


def _image_text(pre: dict[str, Any]) -> str:
    size = f"{pre['channels']} x {pre['height']} x {pre['width']}"
    said = [] if pre["interpolation"] is None else [pre["interpolation"]]
    if pre["crop_pct"] is not None:
        said.append(f"crop {pre['crop_pct']:g}")
    text = ", ".join(said) or "resizing and cropping unknown"
    mode = "" if pre["crop_mode"] is None else f" ({pre['crop_mode']})"
    return f"{size}, {text}{mode}"
