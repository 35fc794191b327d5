"""Make the table of docs/formats/coreml.md from the results of `benchmarks/reference.py coreml`.

python benchmarks/reference.py coreml --precision fp16
python benchmarks/reference.py coreml --precision fp32
python benchmarks/coreml_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs/formats/coreml.md"
START, END = "<!-- reference table: start -->", "<!-- reference table: end -->"
PRECISIONS = ("fp16", "fp32")


def results(precision: str) -> dict[str, dict[str, Any]]:
    """The rows of one precision; none where it was not run."""
    path = HERE / f"results/reference-coreml-{precision}.json"
    return dict(json.loads(path.read_text())["rows"]) if path.exists() else {}


def cell(row: dict[str, Any] | None) -> str:
    """A verdict in few words."""
    if row is None:
        return "not run"
    if row["status"] == "verified":
        return f"{row['snr_db']:.1f} dB"
    return f"{row['status']}: {row['reason']}"


def kept(row: dict[str, Any] | None) -> str:
    """The notes on operators in fp32, or on the way of capturing."""
    notes = [n for n in (row or {}).get("notes", ()) if "random" not in n]
    return "; ".join(notes)


def table() -> str:
    """Markdown."""
    by_precision = {p: results(p) for p in PRECISIONS}
    labels = list(dict.fromkeys(label for rows in by_precision.values() for label in rows))
    lines = ["| model | fp16 | fp32 | notes |", "|---|---|---|---|"]
    for label in labels:
        rows = [by_precision[p].get(label) for p in PRECISIONS]
        notes = dict.fromkeys(filter(None, map(kept, rows)))
        lines.append(f"| {label} | {cell(rows[0])} | {cell(rows[1])} | {'; '.join(notes)} |")
    versions: dict[str, str] = next(
        (r["versions"] for r in by_precision["fp16"].values() if "versions" in r), {}
    )
    words = ", ".join(
        f"{n} {versions[n]}" for n in ("coremltools", "torch", "timm") if n in versions
    )
    return "\n".join([*lines, "", f"With {words}."])


def main() -> None:
    """Replace what stands between the marks."""
    text = PAGE.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
