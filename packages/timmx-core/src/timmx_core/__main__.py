"""`python -m timmx_core` is `timmx`."""

from timmx_core.cli import main

main()
