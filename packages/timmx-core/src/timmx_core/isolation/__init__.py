"""Environments of plugins that cannot live in this one."""
