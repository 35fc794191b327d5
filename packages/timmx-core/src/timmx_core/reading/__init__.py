"""Bytes that nobody vouches for, read within bounds."""
