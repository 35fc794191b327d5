"""Environments of plugins: which there are, and one change at a time."""
