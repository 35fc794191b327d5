"""What formats of PyTorch itself need of it. Imports torch."""

from timmx_core.models.wrapper import InputContract
from timmx_core.process.torch_state import full_precision

__all__ = ["InputContract", "full_precision"]
