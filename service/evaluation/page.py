"""What the HTML pages of reports are made of. Each page is one file: style and pictures inside, no script."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole page around its parts; `title` is plain text."""
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table of plain texts; kind "words" is for sentences, without it the cells are figures."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="panel"><table class="{kind}"><tr>{top}</tr>{body}</table></div>'


def definitions(meanings: Mapping[str, str]) -> str:
    """Return terms with what they mean; HTML on both sides."""
    terms = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in meanings.items())
    return f'<div class="panel"><dl>{terms}</dl></div>'


def note(text: str) -> str:
    """Return a sentence that must not be missed; HTML."""
    return f'<p class="note">{text}</p>'


def picture(jpeg: bytes, name: str) -> str:
    """Return a picture that lies inside the page."""
    return f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def figure(value: float | None, digits: int = 3) -> str:
    """Return a number for people."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share for people."""
    return "n/a" if value is None else f"{value:.{digits}%}"
