"""The format `ncnn` of timmx."""
