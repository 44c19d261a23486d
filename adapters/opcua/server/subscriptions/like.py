"""The operator Like of event filters (OPC 10000-4, 7.7.3)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from asyncua import ua

_MAX_PATTERN: Final = 256  # characters
_WILDCARDS: Final = re.compile(
    r"\\(?P<escaped>.)|(?P<any>%)|(?P<one>_)|\[(?P<not>\^?)(?P<list>[^]]+)\]|(?P<plain>.)", re.DOTALL
)
_LISTED: Final = re.compile(r"(?P<first>.)-(?P<last>.)|(?P<single>.)", re.DOTALL)


def is_like(text: object, pattern: str) -> bool:
    """Tell whether a text is like a pattern: % is any text, _ any character, [a-c] or [^a-c] one of a list.

    A backslash takes the character behind it as it is.
    """
    if isinstance(text, ua.LocalizedText):
        text = text.Text
    return isinstance(text, str) and _compiled(pattern).fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Tell whether it is a pattern that can be looked for."""
    if len(text) > _MAX_PATTERN:
        return False
    try:
        _compiled(text)
    except re.error:  # a range that ends before it begins
        return False
    return True


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern as an expression without a way back (`(?>`): else one could take for ever."""
    parts = [""]
    for found in _WILDCARDS.finditer(pattern):
        if found["any"]:
            parts.append("")
        elif found["one"]:
            parts[-1] += "."
        elif found["list"]:
            parts[-1] += f"[{found['not']}{_listed(found['list'])}]"
        else:
            parts[-1] += re.escape(found["escaped"] or found["plain"])
    first, *others = parts
    last = f".*{others.pop()}" if others else ""
    return re.compile(first + "".join(f"(?>.*?{part})" for part in others) + last, re.DOTALL)


def _listed(characters: str) -> str:
    return "".join(
        re.escape(one["single"]) if one["single"] else f"{re.escape(one['first'])}-{re.escape(one['last'])}"
        for one in _LISTED.finditer(characters)
    )
