"""What a person wants to know of a file, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timmx_core.files.publishing import record_path
from timmx_core.lifecycle.calibration import samples_text
from timmx_core.results import ExportResult, Measurement, Verdict, worst_of
from timmx_core.verification.judge import FILE
from timmx_core.verification.measure import CAP_DB

UNITS = ("B", "kB", "MB", "GB")


def export_lines(result: ExportResult) -> list[str]:
    """File, size, record, input contract, outputs, numbers, verdict."""
    where = str(result.path) if result.path else "nothing was written"
    lines = [f"{'file':<9}{where} ({size_text(result.size)})"]
    lines += [f"{'':<9}{path}" for path in result.companions]
    if result.path:
        lines.append(f"{'record':<9}{record_path(result.path)}")
    lines += [*port_lines(result.manifest), precision_line(result.manifest)]
    return lines + verdict_lines(result.verdict)


def port_lines(manifest: Mapping[str, Any]) -> list[str]:
    """The ports of a file, from its manifest."""
    return [
        *(f"{'input':<9}{input_text(port)}" for port in manifest["inputs"]),
        *(f"{'output':<9}{port_text(port)}" for port in manifest["outputs"]),
    ]


def precision_line(manifest: Mapping[str, Any]) -> str:
    """What numbers a file is of, and what they were calibrated on."""
    precision = manifest["precision"]
    text = (
        f"{precision['name']}: weights {precision['weights']}, "
        f"activations {precision['activations']}"
    )
    if precision.get("calibration"):
        text += f"; calibrated on {samples_text(precision['calibration'])}"
    if precision.get("floor_limit_db") is not None:
        text += f"; --floor lowered floors to {precision['floor_limit_db']:g} dB"
    return f"{'numbers':<9}{text}"


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict, and for each thing that was compared a line with the worst of its figures."""
    lines = [f"{'verdict':<9}{verdict.label}" + (f": {verdict.reason}" if verdict.reason else "")]
    compared = dict.fromkeys(row.comparison for row in verdict.measurements)
    texts = [
        figures(verdict, [r for r in verdict.measurements if r.comparison == name])
        for name in compared
    ]
    lines += [f"{'':<9}{text}" for text in texts if text]
    if verdict.runner:
        lines.append(f"{'':<9}by {verdict.runner}")
    return lines


def figures(verdict: Verdict, rows: Sequence[Measurement]) -> str:
    """As in: SNR 121.3 dB (floor 80 dB), top-1 equal on 8 of 8 probes.

    :param rows: of one comparison.
    :return: empty where nothing could be measured.
    """
    worst = worst_of(rows)
    if worst is None:
        return ""
    reached = "exact" if worst.snr_db == CAP_DB else f"{worst.snr_db:.1f} dB"
    text = f"SNR {reached} (floor {worst.floor_db:g} dB)"
    if worst.comparison != FILE:
        text = f"{worst.comparison!r}: {text}"
        if not any(m.comparison == FILE for m in verdict.measurements):
            text = f"not of the file, but of {text}"  # which was not run; nobody shall think so
    if len(rows) > 1:
        text += f", the worst of {len(rows)} ({worst.output}, batch {worst.batch})"
    agreements = [m.top1 for m in rows if m.top1 is not None]
    if agreements:
        agreed = round(min(agreements) * verdict.probes)
        return f"{text}, top-1 equal on {agreed} of {verdict.probes} probes"
    return f"{text}, {verdict.probes} probes" if verdict.probes else text


def input_text(port: Mapping[str, Any]) -> str:
    """A port that takes an image, with what its pixels are."""
    parts = [port_text(port)]
    pixels = port.get("range")
    colour = port.get("color") or "channels"
    if pixels:
        parts.append(f"{colour} in [{pixels[0]:g}, {pixels[1]:g}]")
    elif port.get("color"):
        parts.append(colour)
    if port.get("mean"):
        parts.append(f"then (x - {vector(port['mean'])}) / {vector(port['std'])}")
    return ", ".join(parts)


def port_text(port: Mapping[str, Any]) -> str:
    """As in: output float32 [1, 1000] NC logits."""
    shape = ", ".join(dimension_text(d) for d in port["shape"])
    what = f"{port['name']} {port['dtype']} [{shape}] {port['layout']} {port['role']}"
    if port.get("stride"):
        what += f" of stride {port['stride']}"
    if port.get("quantization"):
        scale, zero = port["quantization"]
        what += f", real = {scale:g} * (x - {zero})"
    return what


def dimension_text(dimension: int | Sequence[int | None]) -> str:
    """4, "1..8", or "1+" where there is no upper bound."""
    if isinstance(dimension, int):
        return str(dimension)
    least, _, most = dimension
    return f"{least}+" if most is None else f"{least}..{most}"


def vector(values: Sequence[float]) -> str:
    """As in: (0.485, 0.456, 0.406)."""
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def size_text(size: int) -> str:
    """Bytes for people: 46.8 MB."""
    amount, unit = float(size), UNITS[0]
    for unit in UNITS:
        if amount < 1000 or unit == UNITS[-1]:
            break
        amount /= 1000
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
