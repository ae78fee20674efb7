"""What commands say that are asked for a dry run: what would be done, written and asked.

Inputs are checked as in a real run; nothing is asked, started or written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rubric_rl.errors import DataError
from rubric_rl.observability.printable import printable


def tell(text: str) -> None:
    """A line of it."""
    sys.stdout.write(printable(f"dry run: {text}\n"))


def tell_comparisons(count: int, out: Path) -> None:
    """Of a judge that chooses between two answers."""
    kept = f"; those that {out} has an answer to are not asked again" if out.exists() else ""
    tell(f"at most {count} comparisons, one call each{kept}")


def tell_outputs(*paths: Path | None) -> None:
    """Files that would be written; None stands for one that isn't asked for.

    Raises:
        DataError: one is a folder.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise DataError(f"{str(path)!r} is a folder: name a file to write")
        tell(f"{path} would be {'replaced' if path.exists() else 'written'}")
