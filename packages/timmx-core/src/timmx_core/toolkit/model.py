"""What a model takes and gives."""

from timmx_core.models.inputs import pixels_to_input
from timmx_core.models.labels import unique_labels
from timmx_core.models.outputs import tensors_of
from timmx_core.verification.probes import Recipe, make

__all__ = ["Recipe", "make", "pixels_to_input", "tensors_of", "unique_labels"]
