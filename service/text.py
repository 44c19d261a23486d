"""Texts of anybody's making, made fit to be shown."""

from __future__ import annotations


def without_controls(text: str) -> str:
    """Return `text` with what a terminal would obey, or would break a line at, spelled out."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
