"""HTML that is well formed by construction, from texts that may be hostile.

Only two functions make `Html` out of a string: `text` escapes it, `element` builds a
tag around what is `Html` already. Whatever a model wrote goes through `text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NewType

from rubric_rl.observability.printable import printable

Html = NewType("Html", str)

_VOID = frozenset({"meta", "br", "col"})
EMPTY = Html("")


def text(words: str) -> Html:
    """Foreign or own text, escaped; control characters become question marks."""
    return Html(escape(printable(words), quote=True))


def join(parts: Iterable[Html], separator: str = "") -> Html:
    """One after the other; `separator` is text."""
    return Html(text(separator).join(parts))


def element(name: str, /, *children: Html, **attributes: str | float) -> Html:
    """`<name attribute="value">children</name>`.

    An underscore in an attribute's name stands for a hyphen, and one at its end is dropped:
    `class_`, `stroke_width`. Values are escaped.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        assert not children, f"<{name}> holds nothing"
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{''.join(children)}</{name}>")


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return text(value)
    # A tenth of a pixel is fine enough, and a page holds thousands of them.
    return f"{value:.1f}".removesuffix(".0")


# ----------------------------------------------------------------------------
# What a page is made of


def paragraph(words: str, class_: str = "") -> Html:
    return element("p", text(words), **({"class_": class_} if class_ else {}))


def section(title: str, *children: Html, id_: str = "", level: int = 2) -> Html:
    """A section with its heading; one without a child is left out."""
    if not any(children):
        return EMPTY
    attributes = {"id": id_} if id_ else {}
    return element("section", element(f"h{level}", text(title)), *children, **attributes)


def folded(summary: str, *children: Html) -> Html:
    """What is shown when its summary is clicked."""
    return element("details", element("summary", text(summary)), *children)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, numbers: int = 0
) -> Html:
    """A table that scrolls within its own box.

    A cell is escaped unless it comes from `cell`.

    Args:
        numbers: so many of the last columns are set to the right.
    """
    first_number = len(head) - numbers
    header = join(
        element("th", text(words), scope="col", **_aligned(i >= first_number))
        for i, words in enumerate(head)
    )
    body = join(
        element("tr", *(_cell(words, i, i >= first_number) for i, words in enumerate(row)))
        for row in rows
    )
    return element(
        "div",
        element(
            "table",
            element("caption", text(caption)),
            element("thead", element("tr", header)),
            element("tbody", body),
        ),
        # Focusable, so that it can be scrolled with the keyboard.
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


class Cell(str):
    """A cell that is HTML already."""

    __slots__ = ()


def cell(content: Html) -> Cell:
    """Mark `content` as a table cell that needs no escaping."""
    return Cell(content)


def _cell(words: str, column: int, is_number: bool) -> Html:
    content = Html(words) if isinstance(words, Cell) else text(words)
    if column == 0:
        return element("th", content, scope="row")
    return element("td", content, **_aligned(is_number))


def _aligned(is_number: bool) -> dict[str, str]:
    return {"class_": "n"} if is_number else {}
