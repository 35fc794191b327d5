"""Formats and who brings them: found, loaded, checked, listed."""
