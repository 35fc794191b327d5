"""Where a format finds and keeps what stands beside its files."""

from timmx_core.files.records import read_record
from timmx_core.files.staging import output_error
from timmx_core.process.paths import cache_dir

__all__ = ["cache_dir", "output_error", "read_record"]
