"""How much room there was below every bound that a test passed: `pytest --margins FILE`.

A bound that one machine just kept is one that the next machine breaks: kernels, and so figures,
differ from processor to processor. The report has the closest first, each line of an assertion
once, with the test that came closest:

- what is measured: comparisons of numbers of which one is a float, and of approximations;
- exact integers, which are counts most of the time, but may be sizes or memory;
- verified outputs less than `CLOSE_DB` above the floor that their file has to reach.

pytest tells of assertions that pass where `enable_assertion_pass_hook` was set when it compiled
them, as `pyproject.toml` has it. It does not look into `all(... for ...)`, and of `a < b < c` it
tells `b < c`: such bounds are for the reader. Modules that pytest compiled before the option was
set say nothing; `git clean -fdX tests` removes them.
"""

from __future__ import annotations

import ast
import operator
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from timmx_core.results import Measurement

CLOSE_DB = 3.0
CLOSE_SHARE = 0.2
PROPERTY = "margin"
ORDERS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
SUMS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
APPROXIMATION = re.compile(r"(\S+) == (\S+) ± (\S+)$")
DECIBELS = re.compile(r"db\b|snr|margin|decibel", re.IGNORECASE)


@dataclass(frozen=True)
class Bound:
    """A comparison of two numbers that held."""

    kind: str  # "measured", "integers" or "floor"
    room: float  # 0 is on the edge; in dB, or as a share of the bound
    unit: str  # "dB" or "%"
    place: str  # file:line of the assertion, or the output
    text: str

    @property
    def close(self) -> bool:
        return self.room < (CLOSE_DB if self.unit == "dB" else CLOSE_SHARE)

    def __str__(self) -> str:
        room = f"{self.room:7.2f} dB" if self.unit == "dB" else f"{self.room:8.1%} "
        return f"{'close' if self.close else '':5} {room}  {self.place}  {self.text}"


def number_in(node: ast.expr) -> float | None:
    """The value of an arithmetic expression, as pytest shows it; None where it is no number."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            positive = number_in(operand)
            return None if positive is None else -positive
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np")), args=[only]):  # np.float64(1.0)
            wrapped = number_in(only)
            return None if wrapped is None else float(wrapped)
        case ast.BoolOp(op=ast.Or(), values=values):  # (row.snr_db or 0)
            return next((found for found in map(number_in, values) if found), None)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SUMS:
            a, b = number_in(left), number_in(right)
            if a is None or b is None:
                return None
            try:
                return SUMS[type(op)](a, b)  # type: ignore[no-any-return]
            except ArithmeticError:
                return None
    return None


def bounds_in(original: str, explanation: str, place: str) -> Iterator[Bound]:
    """What an assertion that passed compared.

    :param original: its source.
    :param explanation: the same with values in place of names; from its second line on, how those
        came about.
    """
    shown = explanation.partition("\n")[0]
    text = f"{original}: {shown}"
    near = APPROXIMATION.match(shown)
    if near is not None:
        value, centre, tolerance = map(_float, near.groups())
        if tolerance > 0:
            share = 1.0 - abs(value - centre) / tolerance
            yield Bound("measured", share, "%", place, text)
        return
    try:
        tree = ast.parse(shown, mode="eval").body
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare) or len(node.ops) != 1:
            continue
        a, b = number_in(node.left), number_in(node.comparators[0])
        if type(node.ops[0]) not in ORDERS or a is None or b is None:
            continue
        kind = "integers" if isinstance(a, int) and isinstance(b, int) else "measured"
        if kind == "measured" and DECIBELS.search(original):
            yield Bound(kind, abs(a - b), "dB", place, text)
        else:
            scale = max(abs(a), abs(b))
            share = abs(a - b) / scale if scale else 0.0
            yield Bound(kind, share, "%", place, text)


def _asserting_file(root: Path) -> str:
    """Whose assertion pytest is telling about: the caller of its helper, up the stack."""
    frame = sys._getframe()
    while frame.f_code.co_name != "_call_assertion_pass" and frame.f_back is not None:
        frame = frame.f_back
    path = Path((frame.f_back or frame).f_code.co_filename)
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class Margins:
    """The plugin: a list per test, which its report carries from a worker to the controller."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.item: pytest.Item | None = None
        self.found: set[Bound] = set()

    def note(self, bound: Bound) -> None:
        if self.item is not None:
            self.item.user_properties.append((PROPERTY, astuple(bound)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.item = item

    def pytest_assertion_pass(self, item: pytest.Item, lineno: int, orig: str, expl: str) -> None:
        # Of the assertion, which may be in a shared suite.
        file = _asserting_file(item.config.rootpath)
        if "site-packages" in Path(file).parts:  # a plugin's own, as Hypothesis has them
            return
        place = f"{file}:{lineno}"
        for bound in bounds_in(" ".join(orig.split()), expl, place):
            self.note(replace(bound, text=f"{bound.text}  [{item.nodeid}]"))

    def watch(self, measure: Callable[..., Measurement]) -> Callable[..., Measurement]:
        """`timmx_core.verification.measure.measure` that notes what just passed."""

        @wraps(measure)
        def watched(*given: Any, **named: Any) -> Measurement:
            row = measure(*given, **named)
            if row.status == "passed" and row.snr_db is not None and self.item is not None:
                room = row.snr_db - row.floor_db
                if room < CLOSE_DB:
                    text = f"batch {row.batch}: {row.snr_db} dB, floor {row.floor_db:g} dB"
                    place = f"{self.item.nodeid}, {row.output}"
                    self.note(Bound("floor", room, "dB", place, text))
            return row

        return watched

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self.found |= {
                Bound(*value)  # type: ignore[misc]
                for name, value in report.user_properties
                if name == PROPERTY
            }

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput"):
            self.path.write_text(report_of(self.found), encoding="utf-8")


TITLES = {
    "measured": "Measured figures",
    "floor": f"Verified outputs less than {CLOSE_DB:g} dB above their floor",
    "integers": "Exact integers",
}


def report_of(found: Iterable[Bound]) -> str:
    """One section for each kind, the closest first."""
    sections = []
    for kind, title in TITLES.items():
        closest: dict[str, Bound] = {}
        for bound in sorted(found, key=lambda bound: bound.room):
            if bound.kind == kind:
                closest.setdefault(bound.place, bound)
        rows = sorted(closest.values(), key=lambda bound: (not bound.close, bound.unit, bound.room))
        sections.append("\n".join([f"# {title}: {len(rows)}", *map(str, rows)]))
    return "\n\n".join(sections) + "\n"


def add_option(parser: pytest.Parser) -> None:
    """`--margins FILE`."""
    parser.addoption(
        "--margins",
        metavar="FILE",
        type=Path,
        help="write how close every numeric bound was to what it was compared with",
    )


def configure(config: pytest.Config) -> None:
    """Watch assertions and measurements, if that was asked for."""
    path = config.getoption("margins")
    if path is None:
        return
    plugin = Margins(path.absolute())
    config.pluginmanager.register(plugin, "margins")
    import timmx_core.verification.measure

    # Before the modules that import it by its name.
    timmx_core.verification.measure.measure = plugin.watch(timmx_core.verification.measure.measure)
