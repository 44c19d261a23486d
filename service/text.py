"""Texts of anybody's making, made fit to be shown."""

from __future__ import annotations


def without_controls(text: str) -> str:
    """Return `text` with what a terminal would obey, or would break a line at, spelled out."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def one_line(error: BaseException) -> str:
    """Return what `error` says in one line of 200 characters at most: the system's own words alone, where it is its.

    The name of its type where it says nothing.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def brief(exc: BaseException) -> str:
    """Return the type of `exc` and what it says, in one line of 200 characters at most."""
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:200]
