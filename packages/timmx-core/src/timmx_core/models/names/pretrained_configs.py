"""Which of a timm module's models have published weights, from its source alone.

timm's modules build `default_cfgs` with a few lines of plain Python (dicts, calls of small helper
functions, comprehensions). Exactly those statements, and what they use, are run in an empty
namespace where everything imported is a placeholder; the rest of the module, torch with it, is not.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import copy
from collections.abc import Iterator
from typing import Any

CONFIGS = "default_cfgs"
REAL_IMPORTS = {"copy": copy, "deepcopy": copy.deepcopy}


class UnreadableSourceError(Exception):
    """The module builds its configurations in a way that is not understood here."""


class _Placeholder:
    """Stands for anything imported: a constant, a function or a type that does not matter."""

    def __getattr__(self, name: str) -> _Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> _Placeholder:
        return self

    def __getitem__(self, _: object) -> _Placeholder:
        return self

    def __iter__(self) -> Iterator[_Placeholder]:
        raise UnreadableSourceError("a configuration depends on something imported")

    __bool__ = None  # truth would be a guess; using it is a TypeError


def with_weights(source: str, registered: set[str]) -> set[str]:
    """`architecture.tag` of all that has weights (no tag where timm gives none).

    :param registered: the architectures that this module registers.
    :raises UnreadableSourceError: for a source that is written in a new manner.
    """
    configs = _configs(source)
    names: set[str] = set()
    for architecture, tags in _by_architecture(configs).items():
        if architecture not in registered:
            continue
        names |= {f"{architecture}.{tag}" if tag else architecture for tag, has in tags if has}
    return names


def _by_architecture(configs: dict[str, Any]) -> dict[str, list[tuple[str, bool]]]:
    """Tags in timm's order, the default first: the rules of its `generate_default_cfgs`."""
    found: dict[str, list[tuple[str, bool]]] = {}
    settled: set[str] = set()
    for key, config in configs.items():
        architecture, _, tag = key.partition(".")
        weights = any(config.get(source) for source in ("url", "file", "hf_hub_id"))
        tags = found.setdefault(architecture, [])
        priority = (weights and not tag) or (tag.endswith("*") and architecture not in settled)
        first = priority or (weights and not any(has for _, has in tags))
        if priority:
            settled.add(architecture)
        entry = (tag.strip("*"), weights)
        tags.insert(0 if first else len(tags), entry)
    return found


def _configs(source: str) -> dict[str, Any]:
    if CONFIGS not in source:
        return {}
    try:
        statements = _needed(ast.parse(source).body)
        module = ast.Module(body=statements, type_ignores=[])
        # Annotations are left unevaluated: they name types that are not there.
        flags = __future__.annotations.compiler_flag
        code = compile(module, "<timm>", "exec", flags=flags)
        namespace: dict[str, Any] = _Namespace()
        exec(code, namespace)  # noqa: S102 (timm's own source, as importing it would run it)
        configs = namespace.get(CONFIGS)
    except Exception as error:
        raise UnreadableSourceError(str(error)) from error
    if not isinstance(configs, dict) or not all(
        isinstance(key, str) and isinstance(value, dict) for key, value in configs.items()
    ):
        raise UnreadableSourceError(f"{CONFIGS} is not a dict of dicts")
    return configs


class _Namespace(dict[str, Any]):
    """Globals of the slice: what it does not define itself is a placeholder."""

    def __init__(self) -> None:
        super().__init__(
            __builtins__=_Builtins(vars(builtins)),
            generate_default_cfgs=dict,
            PretrainedCfg=dict,
            **REAL_IMPORTS,
        )


class _Builtins(dict[str, Any]):
    # A name that is no builtin either was imported; functions look it up here, too.
    def __missing__(self, name: str) -> _Placeholder:
        return _Placeholder()


def _needed(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that take part in making the configurations, in their order."""
    facts = [
        (statement, _bound(statement), _used(statement))
        for statement in body
        if not isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef | ast.Expr)
        and not (isinstance(statement, ast.FunctionDef) and statement.decorator_list)
    ]
    wanted, chosen = {CONFIGS}, list[ast.stmt]()
    grown = True
    while grown:
        grown = False
        for statement, bound, used in facts:
            if statement not in chosen and _takes_part(statement, bound, used, wanted):
                chosen.append(statement)
                wanted |= used
                grown = True
    return sorted(chosen, key=lambda statement: statement.lineno)


def _takes_part(statement: ast.stmt, bound: set[str], used: set[str], wanted: set[str]) -> bool:
    if bound & wanted:
        return True
    # A loop or condition that touches the configurations may change them.
    plain = isinstance(statement, ast.FunctionDef | ast.Assign | ast.AnnAssign)
    return CONFIGS in used and not plain


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement binds at module level."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | _items_set(statement)


def _items_set(statement: ast.stmt) -> set[str]:
    """`default_cfgs["name"] = ...` changes `default_cfgs`."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return {
        target.value.id
        for target in targets
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name)
    }


def _used(statement: ast.stmt) -> set[str]:
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
