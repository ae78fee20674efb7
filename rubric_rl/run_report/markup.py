"""HTML that is well formed by construction, from texts that may be hostile.

Only `text`, which escapes, and `element`, which builds a tag around what is `Html`
already, make `Html` out of a string. Whatever a model wrote goes through `text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NewType

from rubric_rl.observability.printable import printable

Html = NewType("Html", str)

EMPTY = Html("")
_VOID = frozenset({"meta"})


def text(words: str) -> Html:
    """Foreign or own text, escaped; control characters become question marks."""
    return Html(escape(printable(words), quote=True))


def join(parts: Iterable[Html], separator: str = "") -> Html:
    """One after the other; `separator` is text."""
    return Html(text(separator).join(parts))


def element(name: str, /, *children: Html, **attributes: str | float) -> Html:
    """`<name attribute="value">children</name>`, values escaped.

    An underscore in an attribute's name stands for a hyphen, and one at its end is dropped.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{''.join(children)}</{name}>")


def _value(value: str | float) -> str:
    # A tenth of a pixel is fine enough, and a page holds thousands of them.
    return text(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def note(words: str, class_: str = "note") -> Html:
    """A paragraph in the background."""
    return element("p", text(words), class_=class_)


def section(title: str, *children: Html, level: int, id_: str = "") -> Html:
    """A section with its heading; one without content is left out."""
    if not any(children):
        return EMPTY
    attributes = {"id": id_} if id_ else {}
    return element("section", element(f"h{level}", text(title)), *children, **attributes)


def folded(summary: str, *children: Html, is_open: bool = False) -> Html:
    """What is shown when its summary is clicked."""
    attributes = {"open": "open"} if is_open else {}
    return element("details", element("summary", text(summary)), *children, **attributes)


class Cell(str):
    """A table cell that is `Html` already."""

    __slots__ = ()


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0
) -> Html:
    """A table that scrolls within its own box; a cell is escaped unless it is a `Cell`.

    Args:
        numbers: so many of the last columns are set to the right.
    """
    first_number = len(head) - numbers

    def aligned(column: int) -> dict[str, str]:
        return {"class_": "n"} if column >= first_number else {}

    def cell(words: str, column: int) -> Html:
        content = Html(words) if isinstance(words, Cell) else text(words)
        if column == 0:
            return element("th", content, scope="row")
        return element("td", content, **aligned(column))

    header = (element("th", text(w), scope="col", **aligned(i)) for i, w in enumerate(head))
    body = (element("tr", *(cell(w, i) for i, w in enumerate(row))) for row in rows)
    whole = element(
        "table",
        element("caption", text(caption)),
        element("thead", element("tr", *header)),
        element("tbody", *body),
    )
    # Focusable, so that it can be scrolled with the keyboard.
    box = {"class_": "scroll", "tabindex": "0", "role": "region", "aria_label": caption}
    return element("div", whole, **box)
