"""Names of classes: the canonical ImageNet-1k list that timm carries, or a user's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx_core.errors import RequestError
from timmx_core.models.outputs import require_classes
from timmx_core.reading.regular import read_regular

if TYPE_CHECKING:
    from timmx_core.models.build import BuiltModel

IMAGENET = "imagenet-1k"
MOST_BYTES = 16 << 20


def read_labels(source: str | None) -> tuple[str, ...] | None:
    """The labels that were asked for.

    :raises RequestError: the file is missing, not text, or has empty or endless lines.
    """
    if source is None:
        return None
    if source == IMAGENET:
        return imagenet_labels()
    path = Path(source)
    if not path.exists():
        raise RequestError(f"label file {source} does not exist", f"or say --labels {IMAGENET}")
    if path.stat().st_size > MOST_BYTES:
        raise RequestError(f"label file {source} is larger than {MOST_BYTES >> 20} MiB")
    try:
        lines = read_regular(path, MOST_BYTES + 1).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot read the label file {source}: {reason}") from None
    labels = tuple(line.strip() for line in lines)
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not labels or not all(labels):
        raise RequestError(f"label file {source} has an empty line", "one name a line")
    if max(map(len, labels)) > 1000 or any(not label.isprintable() for label in labels):
        raise RequestError(f"label file {source} does not hold one plain name a line")
    return labels


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1k, in the order of timm's heads."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def check_count(labels: tuple[str, ...] | None, classes: int | None) -> None:
    """One label per class.

    :raises RequestError: another number of them.
    """
    if labels is not None and classes is not None and len(labels) != classes:
        raise RequestError(
            f"{len(labels)} labels for {classes} classes", "--labels wants one name for each class"
        )


def check_labels(labels: tuple[str, ...] | None, built: BuiltModel) -> None:
    """One label for each class that the model gives a number for.

    :raises RequestError: it gives another number of them, or no classes at all.
    """
    if labels is not None:
        require_classes(built, "--labels")
        check_count(labels, built.num_classes)


def unique_labels(labels: Sequence[str]) -> list[str]:
    """Labels as keys of a dictionary: a name that occurs again gets its class number.

    Where a format gives probabilities by name, two classes of one name would become one (ImageNet
    has two cranes, the bird and the machine).
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
