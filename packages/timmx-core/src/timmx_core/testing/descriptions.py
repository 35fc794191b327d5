"""What a format says of itself: light to import, valid, shown in the help, clear in refusing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytest

from timmx_core.backend import Backend, Option
from timmx_core.errors import CannotRunHere, MissingDependency, RequestError
from timmx_core.lifecycle.export import requirement_names
from timmx_core.plugins.checks import check_backend
from timmx_core.plugins.format_json import DescribedBackend, describe_format
from timmx_core.plugins.manager import PluginManager, use_manager
from timmx_core.request import options as option_data
from timmx_core.request.shared_options import SHARED_OPTIONS
from timmx_core.testing.case import Case
from timmx_core.testing.lab import Lab
from timmx_core.testing.plugins import manager_of

HEAVY = frozenset({"click", "numpy", "rich", "safetensors", "timm", "torch", "torchvision"})

FIND = """
import importlib
from pathlib import Path
found = importlib.import_module(sys.argv[2])
for part in sys.argv[3].split("."):
    found = getattr(found, part)
backend = found()
"""
REPORT = 'report(sorted({name.partition(".")[0] for name in sys.modules}))\n'
DESCRIBE = FIND + "backend.name, backend.precisions, backend.options, backend.absorbs\n" + REPORT
LOAD = "import importlib\nimportlib.import_module(sys.argv[4])\n" + REPORT
ASK = (
    FIND
    + """
from timmx_core.errors import TimmxError
for question in (lambda: backend.check_export(None), backend.check_run):
    try:
        question()
    except TimmxError:
        pass
"""
    + REPORT
)


class DescriptionTests(Case):
    """Everything that is asked before an export begins."""

    def test_importing_it_is_light(self, lab: Lab) -> None:
        """Its module, its instance and its facts need no torch, numpy, click or converter."""
        assert not at_import(lab), "import these inside the methods that need them"

    def test_asking_this_machine_is_light(self, lab: Lab) -> None:
        """`check_export(None)` and `check_run()`, which doctor calls, import nothing heavy."""
        further = heavy(lab, ASK) - at_import(lab)
        assert not further, "use importlib.util.find_spec, or ask the system directly"

    def test_another_process_finds_it(self, lab: Lab) -> None:
        """It is a class at the top of a module, made without arguments: workers make it anew."""
        assert "<locals>" not in lab.kind.__qualname__, "define it at the top of a module"
        assert not [
            p
            for p in list(inspect.signature(lab.kind).parameters.values())
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        lab.process(FIND, lab.kind.__module__, lab.kind.__qualname__)

    def test_its_methods_take_what_they_are_given(self) -> None:
        """Each method has the parameters that the contract's has, in their order."""
        for name, own in inspect.getmembers(Backend, inspect.isfunction):
            wanted = [p for p in inspect.signature(own).parameters if p != "self"]
            given = inspect.signature(getattr(self.backend, name))
            try:
                given.bind(None, *wanted)
            except TypeError as error:
                raise AssertionError(
                    f"{name}({', '.join(wanted)}) of the contract cannot be called: {error}"
                ) from None

    def test_its_description_is_valid(self) -> None:
        """Name, help, suffixes, precisions, options, refusals and requirements make sense."""
        backend = check_backend(self.backend())
        requirement_names(backend)
        manager_of(backend, *(other() for other in self.others))

    def test_its_plugin_loads(self, lab: Lab) -> None:
        """The distribution that brings it is found and loaded, as `timmx plugins list` shows it.

        It speaks the contract of this core, its hooks exist, and nothing else has its formats.
        """
        package = lab.kind.__module__.partition(".")[0]
        rows = [
            row
            for row in PluginManager.discover().local_rows
            if row.module.partition(":")[0].partition(".")[0] == package
        ]
        if not rows:
            pytest.skip(f"no installed distribution has an entry point into {package}")
        for row in rows:
            assert row.status == "ok", f"{row.label}: {row.status}: {row.error} ({row.remedy})"
            loaded = heavy(lab, LOAD, row.module.partition(":")[0])
            assert not loaded, f"{row.module} imports them: import these where they are needed"

    def test_a_host_knows_it_by_its_description(self) -> None:
        """What it says of itself is plain data: as JSON it reaches a host and is still the same."""
        backend = self._made()
        described = DescribedBackend(json.loads(json.dumps(describe_format(backend))))
        same = ("name", "help", "suffixes", "precisions", "absorbs", "refuses", "requires")
        assert [n for n in same if getattr(described, n) != getattr(backend, n)] == []
        assert option_data.make_request(
            described, "resnet18", self.options
        ) == option_data.make_request(backend, "resnet18", self.options)

    def test_its_help_shows_every_option(
        self, lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`timmx <format> --help` works, and has every flag."""
        from timmx_core.cli.program import run

        monkeypatch.setenv("COLUMNS", "200")
        with use_manager(lab.manager):
            code = run([lab.backend.name, "--help"])
        shown = capsys.readouterr().out
        assert code == 0
        missing = [
            option_data.flag(option.name)
            for option in option_data.options_of(lab.backend)
            if option_data.flag(option.name) not in shown
        ]
        assert not missing

    def test_its_options_take_their_defaults(self) -> None:
        """A request without options is valid."""
        request = option_data.make_request(self._made(), "resnet18", self.options)
        assert request.precision == self.backend.precisions[0] or "precision" in self.options

    def test_what_it_refuses_is_refused_with_the_reason(self) -> None:
        """Each shared option in `refuses`, with the words given there."""
        backend = self._made()
        known = {option.name: option for option in SHARED_OPTIONS}
        for name, reason in backend.refuses.items():
            with pytest.raises(RequestError) as caught:
                option_data.make_request(backend, "resnet18", {name: some_value(known[name])})
            assert reason, f"the refusal of {name} gives no reason"
            assert reason in caught.value.message

    def test_no_other_precision_is_taken(self) -> None:
        """A word that is not among `precisions` is refused."""
        backend = self._made()
        with pytest.raises(RequestError):
            option_data.make_request(backend, "resnet18", {"precision": "fp7"})

    def test_an_unsupported_request_says_why(
        self, lab: Lab, unsupported_request: Mapping[str, Any]
    ) -> None:
        """What `unsupported` lists is refused before torch loads, in a sentence."""
        lab.require_export()
        with pytest.raises(RequestError) as caught:
            request = option_data.make_request(
                lab.backend, "resnet18", {**lab.given, **unsupported_request}
            )
            lab.backend.check_export(request)
        assert len(caught.value.message.split()) >= 3, "say what is not supported, and why"

    def test_a_way_to_run_that_exists_nowhere_is_refused(self, lab: Lab) -> None:
        """A mistyped device makes a `RequestError` in exports and in `timmx verify` alike.

        Were it left to `open`, the file would be called not verifiable here, which is no failure.
        """
        lab.require_runtime()
        backend = lab.backend
        for option in backend.options:
            if option.phase == "run" and option.type == "str":
                given = {option.name: "no-such-word"}
                with pytest.raises(RequestError):
                    option_data.run_options(backend, given)
                with pytest.raises(RequestError):
                    option_data.make_request(backend, "resnet18", {**lab.given, **given})

    def test_what_this_machine_lacks_is_named(self, lab: Lab) -> None:
        """`check_export(None)` and `check_run()` pass, or raise their own error with a message."""
        try:
            lab.backend.check_export(None)
        except MissingDependency as error:
            assert error.message
        try:
            lab.backend.check_run()
        except CannotRunHere as error:
            assert error.message


def at_import(lab: Lab) -> set[str]:
    """What is heavy among the imports of the format's own module."""
    return lab.kept("imports", lambda: heavy(lab, DESCRIBE))


def heavy(lab: Lab, program: str, *arguments: str) -> set[str]:
    """What a fresh process has imported of what is heavy."""
    arguments = (lab.kind.__module__, lab.kind.__qualname__, *arguments)
    printed, loaded = lab.process(program, *arguments)
    assert not printed, f"it prints to stdout, where results go: {printed.strip()[:100]!r}"
    return set(loaded) & (HEAVY | converter_modules(requirement_names(lab.backend)))


def converter_modules(distributions: set[str]) -> set[str]:
    """The top-level modules of what a format requires, other plugins excepted."""
    wanted = {name.lower().replace("_", "-") for name in distributions}
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if any(owner.lower().replace("_", "-") in wanted for owner in owners)
        and not module.startswith("timmx")
    }


def some_value(option: Option) -> Any:
    """A value that the option would take."""
    if option.default not in (None, False, ()):
        return option.default
    values = {"bool": True, "int": 1, "float": 1.0, "ints": (3, 32, 32), "floats": (0.5,)}
    return values.get(option.type, "word")
