"""A format that imports at the top what it should import where it needs it."""

from __future__ import annotations

import numpy as np
from faulty_formats import NotExporting


class HeavyImport(NotExporting):
    """Imports numpy with its module."""

    nothing = np.zeros(())
