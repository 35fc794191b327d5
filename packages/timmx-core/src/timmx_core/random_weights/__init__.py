"""Weights for a model that has none, such that every layer affects the output."""
