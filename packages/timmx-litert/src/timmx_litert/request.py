"""What of a request LiteRT cannot do, found before torch loads."""

from __future__ import annotations

from timmx_core.backend import ExportRequest
from timmx_core.errors import RequestError

LEAST_SAMPLES = 4


def check_request(request: ExportRequest) -> None:
    """Raise for combinations that LiteRT does not have.

    :raises RequestError: says which, and what to do.
    """
    precision, options = request.precision.name, request.options
    if options["io"] != "float32" and precision != "int8":
        raise RequestError(
            f"--io {options['io']} is for --precision int8, and {precision} files take floats"
        )


def check_samples(count: int) -> None:
    """Refuse to find ranges in next to nothing.

    :raises RequestError: there are too few.
    """
    if count < LEAST_SAMPLES:
        images = "1 image is" if count == 1 else f"{count} images are"
        raise RequestError(
            f"{images} too few to calibrate with",
            f"give at least {LEAST_SAMPLES}, better 100, as the file will see them",
        )
