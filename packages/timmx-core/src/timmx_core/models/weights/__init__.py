"""Weights from files, caches and hubs."""
