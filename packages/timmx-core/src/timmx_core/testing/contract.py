"""The whole conformance suite, and what a format says of itself to tune it."""

from __future__ import annotations

from timmx_core.testing.descriptions import DescriptionTests
from timmx_core.testing.failures import FailureTests
from timmx_core.testing.files import FileTests
from timmx_core.testing.round_trips import RoundTripTests
from timmx_core.testing.snippets import SnippetTests


class BackendContract(  # run backwards
    FailureTests, SnippetTests, FileTests, RoundTripTests, DescriptionTests
):
    """Derive from it, set `backend`, and let pytest collect the class.

    A machine without the converter skips what exports; on one without the runtime every
    `verified` becomes `not verifiable here`. The attributes of `timmx_core.testing.case.Case`
    say where a format cannot do what the suite asks, each with the reason.

    .. versionadded:: 0.1
    """
