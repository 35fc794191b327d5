"""What a test class says of its format, and the fixture that puts the format to work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from timmx_core.backend import Backend
from timmx_core.plugins.checks import InvalidBackendError, check_backend
from timmx_core.testing.lab import Lab


class Case:
    """The attributes that tune the suite. A reason is a sentence; it becomes the skip's message.

    .. versionadded:: 0.1
    """

    backend: ClassVar[type[Backend]]  # the class under test
    others: ClassVar[Sequence[type[Backend]]] = ()  # formats that this one derives from
    options: ClassVar[Mapping[str, Any]] = {}  # given with every export of the suite
    unsupported: ClassVar[Sequence[Mapping[str, Any]]] = ()  # requests that it must refuse
    deterministic: ClassVar[bool] = True  # the same request and versions give the same bytes
    skip_precisions: ClassVar[Mapping[str, str]] = {}  # precision -> why the suite leaves it out
    no_dynamic_batch: ClassVar[str] = ""  # why it cannot take more than one batch size
    no_several_outputs: ClassVar[str] = ""  # why it cannot give more than one output
    no_transformer: ClassVar[str] = ""  # why it cannot convert a vision transformer
    libraries_write: ClassVar[Mapping[str, str]] = {}  # "home/.vendor" -> why that is accepted
    timeout: ClassVar[float] = 300.0  # seconds for each process that the suite starts
    _lab: ClassVar[Lab]

    def _made(self) -> Backend:
        """An instance; the test is skipped where none can be made, since one of its own says so."""
        try:
            return check_backend(self.backend())
        except InvalidBackendError as error:
            pytest.skip(f"the description is not valid: {error}")
        except TypeError as error:  # a method of the contract is missing, an argument is wanted
            pytest.skip(f"no instance of it can be made: {error}")

    @pytest.fixture
    def lab(
        self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Lab]:
        """The format at work in a private home and folder, with what it made so far."""
        case = type(self)
        self._made()
        if "_lab" not in case.__dict__:
            folder = tmp_path_factory.mktemp(case.backend.name)
            try:
                case._lab = Lab(case.backend, case.others, case.options, folder, case.timeout)
            except AssertionError as error:
                pytest.skip(f"core refuses it: {error}")
        monkeypatch.setenv("TIMMX_HOME", str(case._lab.folder / "timmx-home"))
        # More threads gain nothing on such models, and lose much on a machine that is busy. Here
        # as in child processes, since references differ in their last bits between the two.
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with _one_thread():
            yield case._lab

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per precision, and per request that must be refused."""
        case: Any = metafunc.cls
        if not hasattr(case, "backend"):
            return
        if "precision" in metafunc.fixturenames:
            words = [p.name for p in case.backend.precisions if not p.calibrated]
            metafunc.parametrize("precision", words)
        if "unsupported_request" in metafunc.fixturenames:
            ids = [" ".join(f"{k}={v}" for k, v in given.items()) for given in case.unsupported]
            metafunc.parametrize("unsupported_request", list(case.unsupported), ids=ids)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
