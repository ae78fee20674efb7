"""Makes foreign text safe to show on a terminal."""

from __future__ import annotations

import unicodedata

# Control and formatting characters, surrogates: what can move a cursor, recolour
# a terminal, reverse the reading order or fail to encode.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs"})


def printable(text: str) -> str:
    """`text` with every control character but newline and tab replaced by `?`.

    Completions and judge replies are written by models: printed as they are,
    an escape sequence in one could rewrite what the reader sees.
    """
    return "".join(
        "?" if unicodedata.category(ch) in _UNSAFE_CATEGORIES and ch not in "\n\t" else ch
        for ch in text
    )
