"""Write docs/reference from the sources, where each name is documented beside its code.

    python scripts/reference.py           # write the pages
    python scripts/reference.py --check   # exit code 1 where one is stale, or a name undocumented

Classes and functions say in their docstrings what they are and since when (`.. versionadded::`);
an attribute has a comment, behind it or above it. What came later than its class says so itself:
`versionadded 0.2` in the comment, or in the text of the `:param`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from timmx_core.backend import Option
from timmx_core.request.shared_options import SHARED_OPTIONS

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "packages" / "timmx-core" / "src" / "timmx_core"
TARGET = ROOT / "docs" / "reference"
ADDED = re.compile(r"\n*\s*\.\. versionadded:: (\S+)\s*")
ADDED_WORDS = re.compile(r"\s*[,;(]?\s*versionadded (\d[\d.]*\d)\)?")
FIELD = re.compile(r"^:(param|return|raises)(?: ([\w. |]+))?:\s*", re.MULTILINE)
FIRST = "0.1"


@dataclass(frozen=True)
class Page:
    """One page: where its names are, and which of them; none named: all public ones."""

    title: str
    about: str
    sources: tuple[tuple[str, tuple[str, ...]], ...]
    imports: bool = False  # say of each name where it is imported from


PAGES = {
    "hooks": Page(
        "Hooks",
        "What a plugin may implement, with `from timmx_core.hookspecs import hookimpl`.",
        (("hookspecs", ()),),
    ),
    "backend": Page(
        "Backend",
        "The nouns of the contract: `from timmx_core.backend import Backend, ...`.",
        (("backend", ()),),
    ),
    "errors": Page(
        "Errors", "`from timmx_core.errors import ExportError, ...`.", (("errors", ()),)
    ),
    "python": Page(
        "Python",
        "What `timmx_core` itself offers, and what its functions give back.",
        (
            (
                "api",
                (
                    *("describe_model", "export", "export_all", "inspect", "load_model"),
                    *("snippet", "verify"),
                ),
            ),
            ("results", ()),
        ),
    ),
    "testing": Page(
        "Testing",
        "The kit for plugin authors: `from timmx_core.testing import BackendContract`; its "
        'fixtures by `pytest_plugins = ["timmx_core.testing.fixtures"]`.',
        (
            ("testing/contract", ()),
            ("testing/case", ("Case",)),
            ("testing/plugins", ("ClosedManager", "manager_of")),
            ("testing/fixtures", ()),
            ("testing/distributions", ("plugin_source", "fake_dist")),
            ("testing/models", ("tiny_cnn", "tiny_vit", "two_outputs")),
        ),
    ),
    "toolkit": Page(
        "Toolkit",
        "What formats share. "
        "`toolkit.model` also offers `pixels_to_input`, `tensors_of`, `unique_labels` and the "
        "probes' `Recipe` and `make`; `toolkit.comparison` `run_probes`; `toolkit.pytorch` "
        "`InputContract` and `full_precision`; `toolkit.places` `cache_dir`, `output_error` and "
        "`read_record`.",
        (
            ("toolkit/batches", ()),
            ("toolkit/capture", ()),
            ("toolkit/comparison", ()),
            ("toolkit/content", ()),
            ("toolkit/frozen_values", ()),
            ("toolkit/fx_nodes", ()),
            ("toolkit/precision_search", ()),
            ("toolkit/threads", ()),
        ),
        imports=True,
    ),
}


@dataclass
class Findings:
    """What nobody has documented, in the words of who has to."""

    missing: list[str] = field(default_factory=list)

    def want(self, place: str, what: str, *, there: bool) -> None:
        """Note what is not there."""
        if not there:
            self.missing.append(f"{place}: {what}")


class Source:
    """A module, as text and as a tree."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name.replace("/", ".")
        self.lines = text.splitlines()
        self.tree = ast.parse(text)

    def comment(self, node: ast.stmt) -> str:
        """What stands behind a statement, or in the lines right above it."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        behind = self.lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
        if behind.startswith("# ") and not behind.startswith("# type:"):
            return behind[2:]
        above: list[str] = []
        number = node.lineno - 2
        while number >= 0 and self.lines[number].strip().startswith("# "):
            above.insert(0, self.lines[number].strip()[2:])
            number -= 1
        return " ".join(above)


def prose(docstring: str) -> tuple[str, str, dict[str, str]]:
    """A docstring's text, its version ("" where it says none), and its fields by `param name`."""
    found = ADDED.search(docstring)
    text = ADDED.sub("\n", docstring)
    parts = list(FIELD.finditer(text))
    ends = [*(part.start() for part in parts[1:]), *([len(text)] if parts else [])]
    fields = {
        " ".join(filter(None, part.groups())): " ".join(text[part.end() : end].split())
        for part, end in zip(parts, ends, strict=True)
    }
    body = text[: parts[0].start()] if parts else text
    return body.strip(), found[1] if found else "", fields


def signature(node: ast.FunctionDef) -> str:
    """As it is called, without `self`."""
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, |$)", "", arguments)
    given = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({arguments}){given}"


def described(
    node: ast.FunctionDef, place: str, findings: Findings, *, strict: bool, since: str = ""
) -> Iterator[str]:
    """A function's own text.

    :param strict: each of its arguments has to be described.
    """
    body, version, fields = prose(ast.get_docstring(node) or "")
    findings.want(place, "it has no docstring", there=bool(body))
    findings.want(
        place, "it does not say since when (.. versionadded::)", there=bool(version or since)
    )
    if strict:
        for argument in (*node.args.args, *node.args.kwonlyargs):
            findings.want(
                place,
                f"its argument {argument.arg} has no `:param {argument.arg}:`",
                there=f"param {argument.arg}" in fields or argument.arg == "self",
            )
    yield f"{body}\n"
    for name, text in fields.items():
        kind, _, word = name.partition(" ")
        label = {"param": f"`{word}`", "return": "gives", "raises": f"raises `{word}`"}[kind]
        found = ADDED_WORDS.search(text)
        text = ADDED_WORDS.sub("", text)
        yield f"- {label}: {text}" + (f" *Since {found[1]}.*" if found else "")
    if version:
        yield f"\n*Since {version}.*"
    yield ""


def class_section(node: ast.ClassDef, source: Source, findings: Findings) -> Iterator[str]:
    """A class: its text, its attributes as a table, its methods."""
    place = f"{source.name}.{node.name}"
    body, version, _ = prose(ast.get_docstring(node) or "")
    findings.want(place, "it has no docstring", there=bool(body))
    findings.want(place, "it does not say since when (.. versionadded::)", there=bool(version))
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"## {node.name}\n"
    if bases:
        yield f"`class {node.name}({bases})`\n"
    yield f"{body}\n\n*Since {version}.*\n"
    rows = list(_attributes(node, source, findings))
    if rows:
        yield "| attribute | type | default | |\n|---|---|---|---|"
        yield from rows
        yield ""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and _is_shown(method):
            if method.name == "pytest_generate_tests":
                continue
            yield f"### {node.name}.{method.name}\n\n`{signature(method)}`\n"
            yield from described(
                method, f"{place}.{method.name}", findings, strict=False, since=version
            )


def _is_shown(method: ast.FunctionDef) -> bool:
    """A public method, or a special one that says what it takes."""
    special = method.name in ("__init__", "__call__", "__exit__")
    return not method.name.startswith("_") or (special and ast.get_docstring(method) is not None)


def _attributes(node: ast.ClassDef, source: Source, findings: Findings) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if name.startswith("_"):
                continue
            comment = source.comment(statement)
            findings.want(
                f"{source.name}.{node.name}.{name}", "it has no comment", there=bool(comment)
            )
            found = ADDED_WORDS.search(comment)
            comment = ADDED_WORDS.sub("", comment) + (f" *Since {found[1]}.*" if found else "")
            kind = re.sub(r"^ClassVar\[(.*)\]$", r"\1", ast.unparse(statement.annotation))
            default = ast.unparse(statement.value) if statement.value is not None else ""
            default = re.sub(r"^field\(default_factory=(.*)\)$", r"\1()", default)
            cells = (f"`{name}`", f"`{kind}`", f"`{default}`" if default else "", comment)
            yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page(name: str, findings: Findings, sources: dict[str, str]) -> str:
    """One page.

    :param sources: modules by their path below `timmx_core`, without `.py`.
    """
    wanted = PAGES[name]
    lines = [f"# {wanted.title}\n", f"{wanted.about}\n", f"{MADE}\n"]
    for module, names in wanted.sources:
        source = Source(module, sources[module])
        if wanted.imports:
            lines.append(f"## timmx_core.{source.name}\n")
        for node in source.tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            if node.name not in names if names else node.name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                lines += class_section(node, source, findings)
            else:
                lines += [f"## {node.name}\n", f"`{signature(node)}`\n"]
                place = f"{source.name}.{node.name}"
                lines += described(node, place, findings, strict=module == "hookspecs")
    return _tidy("\n".join(lines))


MADE = "*Made from the sources by `python scripts/reference.py`.*"


def options_page(findings: Findings, options: tuple[Option, ...] = SHARED_OPTIONS) -> str:
    """The options that every format shares."""
    about = (
        "What every format takes, on the command line with hyphens and in "
        "`timmx_core.export(...)` with underscores, unless a format refuses it. "
        "`timmx <format> --help` has those of the format, too.\n"
    )
    lines = [
        "# Shared options\n",
        about,
        f"{MADE}\n",
        "| option | type | default | | since |\n|---|---|---|---|---|",
    ]
    for option in options:
        findings.want(f"option {option.name}", "it has no help", there=bool(option.help.strip()))
        version = option.versionadded or FIRST
        choices = ", ".join(option.choices)
        default = option.unset if option.default is None else f"`{option.default}`"
        kind = option.type + (f" ({choices})" if choices else "")
        cells = (f"`{option.name}`", kind, default, option.help, version)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return _tidy("\n".join(lines))


def index() -> str:
    """The list of pages."""
    links = [f"- [{page.title}]({name}.md): {page.about}" for name, page in PAGES.items()]
    links.append("- [Shared options](options.md): what every format takes.")
    about = "Every hook, class and option of the contract, and since when it is there."
    return _tidy("\n".join(["# Reference\n", f"{about}\n", f"{MADE}\n", *links]))


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def made(findings: Findings) -> dict[str, str]:
    """Every page by the name of its file."""
    modules = {module for wanted in PAGES.values() for module, _ in wanted.sources}
    sources = {m: (CORE / f"{m}.py").read_text("utf-8") for m in modules}
    pages = {f"{name}.md": page(name, findings, sources) for name in PAGES}
    return pages | {"options.md": options_page(findings), "README.md": index()}


def main() -> int:
    """0 where every name is documented, and every page is as it should be."""
    check = sys.argv[1:] == ["--check"]
    findings = Findings()
    pages = made(findings)
    for trouble in findings.missing:
        print(trouble)
    stale = [n for n, t in pages.items() if not _is(TARGET / n, t)]
    for name in stale:
        if check:
            print(f"docs/reference/{name} is stale: run python scripts/reference.py")
        else:
            TARGET.mkdir(exist_ok=True)
            (TARGET / name).write_text(pages[name], "utf-8")
    return int(bool(findings.missing) or (check and bool(stale)))


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
