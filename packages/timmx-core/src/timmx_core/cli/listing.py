"""`timmx list [PATTERN]`."""

from __future__ import annotations

import click

from timmx_core.cli.settings import json_option, print_json, print_lines
from timmx_core.errors import ModelError


@click.command("list", params=[json_option()])
@click.argument("pattern", required=False, default="")
@click.option("--pretrained", is_flag=True, help="Only what has published weights, with its tags.")
def list_command(pattern: str, pretrained: bool, as_json: bool) -> None:
    """List timm's models.

    PATTERN is part of a name, or has wildcards: "resnet*d".
    """
    from timmx_core.models.names import catalog

    names = catalog.pretrained_names() if pretrained else catalog.model_names()
    found = catalog.match(names, pattern) if pattern else names
    if not found:
        near = catalog.near_matches(pattern)
        what = "model with published weights" if pretrained else "model"
        raise ModelError(
            f"no {what} matches {pattern!r}", f"did you mean {' or '.join(near)}?" if near else ""
        )
    if as_json:
        print_json({"models": found})
    else:
        print_lines(found)
