"""Class labels as Core ML wants them: each one different."""

from __future__ import annotations

from collections.abc import Sequence


def unique_labels(labels: Sequence[str]) -> list[str]:
    """Labels as keys of a dictionary: a name that occurs again gets its class number.

    Core ML gives probabilities by name, so that two classes of one name would become one
    (ImageNet has two cranes, the bird and the machine).
    """
    seen: set[str] = set()
    result = []
    for index, label in enumerate(labels):
        name = label
        while name in seen:
            name = f"{name} ({index})"
        seen.add(name)
        result.append(name)
    return result
