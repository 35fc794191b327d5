"""The formats `tensorrt` and `tensorrt-rtx` of timmx."""
