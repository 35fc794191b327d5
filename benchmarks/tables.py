"""Make the tables of the documentation from the results that the other commands here left.

    python benchmarks/tables.py           # write them into docs/
    python benchmarks/tables.py --check   # exit code 1 where a page shows another table

A page marks the place with `<!-- table: NAME -->` and `<!-- end table -->`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end table -->)", re.DOTALL)
FLOORS = {"fp32": 80.0, "fp16": 30.0, "int8": 5.0}
COSINE = 0.9
MOST_ILL = 12  # rows of the table of conditioning
Rows = list[list[str]]


def results(name: str) -> dict[str, Any]:
    """What a command left; empty where it was not run yet."""
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return content


def fault_formats() -> list[str]:
    """The formats that have been tried."""
    names = sorted(path.stem.removeprefix("faults-") for path in RESULTS.glob("faults-*.json"))
    return [name for name in names if name != "layers"]


# ---------------------------------------------------------------- what would let a fault through


def passes(row: Mapping[str, Any], floor: float) -> bool:
    """Whether a file with this fault would reach a floor. One without a figure never does."""
    return row["snr_db"] is not None and row["snr_db"] >= floor and not refused(row)


def refused(row: Mapping[str, Any]) -> bool:
    """Whether it fails at any floor."""
    return any(word in row["reason"] for word in ("shape", "dtype", "NaN"))


def cosine_passes(row: Mapping[str, Any]) -> bool:
    """`cosine < 0.9` is false where the cosine is no number."""
    value = row["one_random_input"]
    return value is None or value >= COSINE


def count(rows: Iterable[Mapping[str, Any]], test: Callable[[Mapping[str, Any]], bool]) -> str:
    """How many."""
    return str(sum(test(row) for row in rows))


def passing(floor: float) -> Callable[[Mapping[str, Any]], bool]:
    """`passes` at one floor."""
    return lambda row: passes(row, floor)


# ---------------------------------------------------------------- the tables


def table(header: list[str], rows: Rows, numbers: int) -> str:
    """Markdown; the columns from `numbers` on are aligned to the right."""
    rule = ["---" if index < numbers else "--:" for index in range(len(header))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def structural() -> str:
    """Each structural fault over all formats and models."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name in fault_formats():
        for model in results(f"faults-{name}")["rows"].values():
            for fault, row in model.get("structural", {}).items():
                found.setdefault(fault, []).append(row)
    rows = [[name, *_let_through(tried)] for name, tried in found.items()]
    every = [row for tried in found.values() for row in tried]
    rows.append(["**all**", *_let_through(every)])
    return table(
        ["fault", "files", "failed", "highest dB", "fp16: pass", "int8: pass", "cosine: pass"],
        rows,
        1,
    )


def _let_through(tried: list[Mapping[str, Any]]) -> list[str]:
    figures = [row["snr_db"] for row in tried if row["snr_db"] is not None and not refused(row)]
    return [
        str(len(tried)),
        count(tried, lambda row: row["caught"]),
        f"{max(figures):.1f}" if figures else "none",
        count(tried, passing(FLOORS["fp16"])),
        count(tried, passing(FLOORS["int8"])),
        count(tried, cosine_passes),
    ]


def layers() -> str:
    """Each kind of layer fault on each model."""
    rows = []
    for model, result in results("faults-layers").get("rows", {}).items():
        kinds = list(dict.fromkeys(k for row in result["faults"].values() for k in row))
        for kind in sorted(kinds):
            tried = [row[kind] for row in result["faults"].values() if kind in row]
            equivalent = count(tried, passing(FLOORS["fp32"]))
            rows.append(
                [
                    f"{model} ({result['weights']} weights)",
                    kind,
                    str(len(tried)),
                    str(len(tried) - int(equivalent)),
                    equivalent,
                    count(tried, passing(FLOORS["fp16"])),
                    count(tried, passing(FLOORS["int8"])),
                    count(tried, cosine_passes),
                ]
            )
    return table(
        [
            *("model", "fault", "parameters", "failed", "equivalent"),
            *("fp16: pass", "int8: pass", "cosine: pass"),
        ],
        rows,
        2,
    )


def equivalent() -> str:
    """Every layer fault that moves PyTorch's own output by less than the floor of fp32."""
    rows = [
        [model, f"`{name.removeprefix('model.')}`", kind, f"{row['snr_db']:.1f}"]
        for model, result in results("faults-layers").get("rows", {}).items()
        for name, kinds in result["faults"].items()
        for kind, row in kinds.items()
        if passes(row, FLOORS["fp32"])
    ]
    return table(["model", "parameter", "fault", "dB"], rows, 3)


def layer_files() -> str:
    """Layer faults that were put into real files."""
    rows = []
    for name in fault_formats():
        for model, result in results(f"faults-{name}")["rows"].items():
            tried = result.get("layers", {})
            failed = count(tried.values(), lambda row: row["caught"])
            rows.append([name, model, ", ".join(f"`{_short(t)}`" for t in tried), failed])
    return table(["format", "model", "spoiled in the file", "failed"], rows, 3)


def _short(label: str) -> str:
    return label.removeprefix("model.")


def clean() -> str:
    """Files without a fault: how far above the floor they stand."""
    rows = []
    for name in fault_formats():
        for model, result in results(f"faults-{name}")["rows"].items():
            for options, row in result.get("clean", {}).items():
                figure = "exact" if row["snr_db"] == 200 else f"{row['snr_db']:.1f}"
                rows.append([name, model, options, row["status"], figure])
    return table(["format", "model", "export", "verdict", "dB"], rows, 4)


def reference(name: str) -> str:
    """The reference architectures in one format."""
    rows = []
    all_rows = results(f"reference-{name}")["rows"]
    for label, row in all_rows.items():
        figure = row.get("snr_db")
        shown = "" if figure is None else "exact" if figure == 200 else f"{figure:.1f}"
        size = f"{row['size'] / 1e6:.1f}" if row.get("size") else ""
        why = row.get("reason") or _delegated(row.get("report", {}))
        rows.append([label, row["status"], shown, size, _cell(why)])
    if any(row[-1] for row in rows):
        delegated = any("delegates" in row.get("report", {}) for row in all_rows.values())
        heading = "XNNPACK" if delegated else "reason"
        return table(["model", "verdict", "dB", "MB", heading], rows, 2)
    return table(["model", "verdict", "dB", "MB"], [row[:-1] for row in rows], 2)


def _delegated(report: Mapping[str, Any]) -> str:
    """What delegates took of a program, and what they left."""
    taken = [
        f"{row['operators']} operators in {row['parts']} part{'s' if row['parts'] != 1 else ''}"
        for row in report.get("delegates", {}).values()
    ]
    left = [f"{row['count']} {row['operator']}" for row in report.get("portable", ())]
    return "; ".join([*taken, *left])


def engines(name: str) -> str:
    """The reference architectures as engines, which are not run where they are built."""
    rows = []
    for label, row in results(f"reference-{name}")["rows"].items():
        if "layers" not in row:
            rows.append([label, _cell(f"{row['status']}: {row['reason']}"), "", "", "", ""])
            continue
        size = f"{row['size'] / 1e6:.1f}"
        took = f"{row['build_seconds']:.1f}"
        about = f"{row['snr_db']:.1f}"
        rows.append([label, row["comparison"], about, str(row["layers"]), took, size])
    return table(["model", "compared with PyTorch", "dB", "layers", "s", "MB"], rows, 2)


def precisions(format: str) -> str:
    """The reference architectures in every precision that was tried, a column each."""
    names = sorted(p.stem.removeprefix("reference-") for p in RESULTS.glob(f"reference-{format}-*"))
    tried = {
        name.removeprefix(f"{format}-"): results(f"reference-{name}")["rows"] for name in names
    }
    labels = dict.fromkeys(label for rows in tried.values() for label in rows)
    lines = []
    for label in labels:
        cells = [_rated(rows.get(label)) for rows in tried.values()]
        notes = dict.fromkeys(
            note
            for rows in tried.values()
            for note in rows.get(label, {}).get("notes") or ()
            if "random" not in note and "synthetic" not in note  # as all of them are
        )
        lines.append([label, *cells, _cell("; ".join(notes), 400)])
    stated: Mapping[str, str] = next(
        (r["versions"] for rows in tried.values() for r in rows.values() if "versions" in r), {}
    )
    words = ", ".join(f"{n} {v}" for n, v in stated.items())
    return table(["model", *tried, "notes"], lines, 1) + f"\nWith {words}.\n"


def _rated(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not run"
    if row["status"] == "verified":
        return f"{row['snr_db']:.1f} dB"
    return _cell(f"{row['status']}: {row['reason']}", 400)


def photographs(format: str) -> str:
    """A network with real weights on photographs, in every precision."""
    rows = []
    found = results(f"photographs-{format}").get("rows", {})
    for precision, row in found.items():
        of = row.get("photographs", 0)
        rows.append(
            [
                f"`{precision}`",
                row["status"],
                f"{row['snr_db']:.1f}",
                f"{row['size'] / 1e6:.1f}",
                f"{row['same_class']} of {of}"
                + (f", {row['held_back']} of the other 10" if "held_back" in row else ""),
                f"{row['right_class']} of {of}",
                f"{row['right_label']} of {of}",
            ]
        )
    header = ["precision", "verdict", "dB", "MB", "class as PyTorch", "class right", "label fits"]
    if not any(row["right_label"] for row in found.values()):  # exported without labels
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table(header, rows, 2)


def budgets() -> str:
    """Our commands beside the peer's: medians, ratios, and what they may be."""
    rows = []
    for name, row in results("budgets").get("rows", {}).items():
        ours, theirs, ratio, most = row["ours"], row["theirs"], row["ratio"], row["budget"]
        rows.append(
            [
                f"`{name}`",
                f"{ours['seconds']:.2f}",
                f"{theirs['seconds']:.2f}",
                f"{ratio['seconds']:.2f}",
                f"{most['seconds']:.2f}",
                f"{ratio['processor']:.2f}",
                f"{ours['largest']:.0f}",
                f"{theirs['largest']:.0f}",
                f"{ratio['largest']:.2f}",
                f"{ratio['together']:.2f}",
            ]
        )
    header = ["command", "s", "s, peer", "ratio", "budget", "processor"]
    return table([*header, "MiB", "MiB, peer", "ratio", "all processes"], rows, 1)


def _cell(text: str, most: int = 160) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:most]


def versions() -> str:
    """What the faults were tried with."""
    rows = []
    for name in ("layers", *fault_formats()):
        content = results(f"faults-{name}")
        if content:
            stated = ", ".join(f"{n} {v}" for n, v in content["versions"].items())
            rows.append([f"`{content['command']}`", stated])
    return table(["command", "versions"], rows, 2)


def families(format: str) -> str:
    """How the precisions of a format fare over timm's families."""
    found = results(f"families-{format}").get("rows", {})
    by_precision: dict[str, list[Mapping[str, Any]]] = {}
    for family in found.values():
        for precision, row in family["precisions"].items():
            by_precision.setdefault(precision, []).append(row)
    rows = []
    for precision, tried in by_precision.items():
        values = sorted(_least_db(row) for row in tried if row.get("snr_db") is not None)
        verified = count(tried, lambda row: row["status"] == "verified")
        shown = [values[0], values[len(values) // 10], values[len(values) // 2]] if values else []
        top1 = [r["top1"] for r in tried if r.get("top1") is not None]
        mean = f"{100 * sum(top1) / len(top1):.0f} %" if top1 else ""
        figures = [f"{value:.1f}" for value in shown] or ["", "", ""]
        rows.append([f"`{precision}`", str(len(tried)), verified, *figures, mean])
    header = ["precision", "families", "verified", "least dB", "tenth", "median", "top-1 equal"]
    return table(header, rows, 1)


def _least_db(row: Mapping[str, Any]) -> float:
    """Of the file, or of its arithmetic; a float file beside it is another precision."""
    beside = [value for name, value in row["beside"].items() if name != "float file"]
    return float(min([row["snr_db"], *beside]))


def unverified(format: str) -> str:
    """The families that did not end verified, and why."""
    rows = [
        [family, content["model"], f"`{precision}`", row["status"], _cell(row.get("reason") or "")]
        for family, content in results(f"families-{format}").get("rows", {}).items()
        for precision, row in content["precisions"].items()
        if row["status"] != "verified"
    ]
    if not rows:
        return "None.\n"
    return table(["family", "model", "precision", "verdict", "reason"], rows, 5)


PASSES = ("unfolded", "optimizer", "fusions", "basic", "extended", "onnxslim")


def latency(labels: tuple[str, ...], format: str = "onnx") -> str:
    """Files of each model, as ratios to the one in fp32."""
    found = results(f"latency-{format}").get("rows", {})
    kept = {model: row for model, row in found.items() if any(name in row for name in labels)}
    columns = [(name, "ratio") for name in labels]
    if any("ratio_2_threads" in row.get("peer", {}) for row in kept.values()) and "peer" in labels:
        columns.append(("peer", "ratio_2_threads"))
    rows = [
        [
            model,
            f"{row['fp32']['ms']:.1f} ms",
            *(f"{row.get(n, {})[key]:.2f}" if key in row.get(n, {}) else "" for n, key in columns),
        ]
        for model, row in kept.items()
    ]
    means = []
    for name, key in columns:
        values = [row[name][key] for row in kept.values() if key in row.get(name, {})]
        means.append(f"{statistics.geometric_mean(values):.3f}" if values else "")
    rows.append(["**geometric mean**", "", *means])
    heads = [name if key == "ratio" else f"{name}, 2 threads" for name, key in columns]
    return table(["model", "fp32", *heads], rows, 1)


def each_pass(format: str) -> str:
    """How much slower a file is without one of the passes."""
    found = results(f"latency-{format}").get("rows", {})
    names = sorted({n for row in found.values() for n in row if n.startswith("without ")})
    rows = [
        [model, *(f"{row[name]['ratio']:.3f}" if name in row else "" for name in names)]
        for model, row in found.items()
        if any(name in row for name in names)
    ]
    return table(["model", *(f"`{name.removeprefix('without ')}`" for name in names)], rows, 1)


def operators(format: str) -> str:
    """Operators of a file before and after the passes, where these change any."""
    found = results(f"operators-{format}").get("rows", {})
    rows = []
    for model, row in found.items():
        before, after = row["before"]["operators"], row["after"]["operators"]
        changed = [
            f"{before.get(kind, 0)} to {after.get(kind, 0)} {kind}"
            for kind in sorted({*before, *after})
            if before.get(kind) != after.get(kind)
        ]
        nodes = [str(row[when]["nodes"]) for when in ("before", "after")]
        rows.append([model, *nodes, ", ".join(changed) or "as before"])
    return table(["model", "before", "after", "of it"], rows, 3)


def stages(format: str) -> str:
    """Seconds of each part of an export, and how often it runs."""
    found = results(f"stages-{format}").get("rows", {})
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [[name, *(_stage(row.get(name)) for row in found.values())] for name in names]
    return table(["part", *found], rows, 1)


def _stage(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return ""
    often = f" ({part['times']})" if part["times"] > 1 else ""
    return f"{part['seconds']:.1f}{often}"


MOST_KERNELS = 6


def kernels() -> str:
    """The kinds of operators that take most of an inference."""
    rows = []
    for model, spent in results("kernels-onnx").get("rows", {}).items():
        whole = sum(spent.values())
        parts = [f"{name} {100 * ms / whole:.0f} %" for name, ms in spent.items()]
        rows.append([model, f"{whole:.1f} ms", ", ".join(parts[:MOST_KERNELS])])
    return table(["model", "in all", "of it"], rows, 3)


def calibration() -> str:
    """Ways to quantize one model with real weights."""
    rows = [
        [
            label,
            "" if row["snr_db"] == 200 else f"{row['snr_db']:.1f}",
            str(row["agree"]),
            f"{row['ms']:.1f}",
            f"{row['size'] / 1e6:.1f}",
        ]
        for label, row in results("calibration-onnx").get("rows", {}).items()
    ]
    return table(["file", "dB", "same class, of 10", "ms", "MB"], rows, 1)


def dispatch() -> str:
    """Exports through the host beside those in the environment, and start-up."""
    content = results("dispatch")
    rows = []
    for format, row in content.get("rows", {}).items():
        seconds = row["seconds"]
        rows.append(
            [
                f"{format}, {row['model']}",
                f"{seconds['dispatched']:.2f} s",
                f"{seconds['inside']:.2f} s",
                f"{row['extra_seconds']:.2f} s",
                "",
            ]
        )
    for words, cost in content.get("start_up", {}).items():
        if words != "isolated":
            cells = [f"{cost['seconds']:.2f} s", "", "", f"{cost['mib']:.0f} MiB"]
            rows.append([f"`timmx {words}`", *cells])
    return table(["", "through the host", "inside", "more", "memory"], rows, 1)


def accidents() -> str:
    """What became of the target, by kind of accident."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in results("accidents")["rows"]:
        found.setdefault(row["kind"], []).append(row)
    every = [row for tried in found.values() for row in tried]
    rows = [
        [
            kind,
            str(len(tried)),
            *(_ended(tried, way) for way in ("absent", "as before", "new")),
            count(tried, lambda row: bool(row["trouble"])),
        ]
        for kind, tried in (*sorted(found.items()), ("**all**", every))
    ]
    return table(["accident", "runs", "absent", "as before", "new and whole", "trouble"], rows, 1)


def changes() -> str:
    """What is told of weights that were changed by 2 %, by format and precision."""
    rows: Rows = []
    for path in sorted(RESULTS.glob("changes-*.json")):
        content = results(path.stem)
        rows += [
            [
                content["format"],
                row["precision"],
                f"{row['floor_db']:g}",
                *(_decibels(db) for db in (row["exported"][1], row["changed_db"])),
                *(_told(*row[way]) for way in ("without_record", "with_record")),
            ]
            for row in content["rows"]
        ]
    header = ["format", "precision", "floor", "exported", "changed by 2 %"]
    return table([*header, "its record gone", "with its record"], rows, 2)


def conditioning() -> str:
    """The families whose float32 is furthest from float64, and how many there are."""
    rows = results("conditioning")["rows"]
    rated = {name: row for name, row in rows.items() if "error" not in row}
    least = {name: min(row["float32_db"], row["folded_db"]) for name, row in rated.items()}
    order = sorted(least, key=lambda name: least[name])
    body = [
        [
            name,
            *(
                f"{rated[name][key]:.1f}"
                for key in ("drawn_db", "expected_db", "float32_db", "folded_db")
            ),
        ]
        for name in order[:MOST_ILL]
    ]
    middle = statistics.median(least.values())
    header = ["model", "expected as drawn", "expected", "float32", "float32, norms folded"]
    others = f"In dB, the lowest of {len(least)}, whose median is {middle:.1f}."
    return table(header, body, 1) + f"\n{others}\n"


def _told(status: str, _: str, by_digest: bool) -> str:
    return f"{status}, by the digest" if by_digest and status == "failed" else status


def _decibels(value: float | None) -> str:
    return "" if value is None else "exact" if value >= 200 else f"{value:.1f}"


def _ended(tried: list[Mapping[str, Any]], way: str) -> str:
    return count(tried, lambda row: row["target"] == way)


TABLES: Mapping[str, Callable[[], str]] = {
    "faults-structural": structural,
    "faults-layers": layers,
    "faults-equivalent": equivalent,
    "faults-layer-files": layer_files,
    "faults-clean": clean,
    "faults-versions": versions,
    "accidents": accidents,
    "changes": changes,
    "conditioning": conditioning,
    "budgets": budgets,
    "dispatch": dispatch,
    "calibration-onnx": calibration,
    "kernels-onnx": kernels,
    "latency-onnx": lambda: latency(("fp16", "int8", "dynamic-int8", "peer")),
    "latency-passes": lambda: latency(PASSES),
    "latency-litert-passes": lambda: each_pass("litert"),
    "latency-executorch": lambda: latency(
        ("unoptimised", "dynamic-int8", "int8", "peer", "peer-int8"), "executorch"
    ),
    "latency-litert": lambda: latency(
        ("unoptimised", "fp16", "dynamic-int8", "int8", "peer", "peer-int8"), "litert"
    ),
}

BY_FORMAT: Mapping[str, Callable[[str], str]] = {
    "engines": engines,
    "families": families,
    "photographs": photographs,
    "precisions": precisions,
    "reference": reference,
    "stages": stages,
    "operators": operators,
    "unverified": unverified,
}


def made(name: str) -> str:
    """The table of that name.

    :raises KeyError: there is none.
    """
    kind, _, rest = name.partition("-")
    if kind in BY_FORMAT:
        return BY_FORMAT[kind](rest)
    return TABLES[name]()


def pages() -> Iterator[tuple[Path, str, str]]:
    """Every page with tables: where it is, what it says, what it should say."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text("utf-8")
        if PLACE.search(text):
            yield path, text, PLACE.sub(lambda m: f"{m[1]}{made(m[2])}{m[3]}", text)


def main() -> int:
    """0 where every page shows what it should, after writing unless `--check`."""
    check = sys.argv[1:] == ["--check"]
    stale = [(path, wanted) for path, text, wanted in pages() if text != wanted]
    for path, wanted in stale:
        done = "another table is made from the results" if check else "written"
        print(f"{path.relative_to(ROOT)}: {done}")
        if not check:
            path.write_text(wanted, encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
