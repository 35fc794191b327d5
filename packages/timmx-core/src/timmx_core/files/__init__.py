"""Finished files: what they say of themselves, and how they get to their place."""
