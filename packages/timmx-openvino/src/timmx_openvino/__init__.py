"""The format `openvino` of timmx."""
