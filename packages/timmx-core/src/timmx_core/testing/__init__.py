"""The kit for plugin authors: whether a format keeps the contract, as a pytest class.

    from timmx_core.testing import BackendContract
    from timmx_myformat.backend import MyFormat

    class TestMyFormat(BackendContract):
        backend = MyFormat

Every test is named after what it demands. Needs `pip install "timmx-core[testing,timm]"`; the
fixtures are in `timmx_core.testing.fixtures`.
"""

from __future__ import annotations

import pytest

for _module in ("descriptions", "failures", "files", "round_trips", "snippets"):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")

from timmx_core.testing.contract import BackendContract  # noqa: E402
from timmx_core.testing.plugins import ClosedManager, manager_of  # noqa: E402

__all__ = ["BackendContract", "ClosedManager", "manager_of"]
