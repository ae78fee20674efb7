"""A bounded queue of answers: what doesn't fit is refused, to come back later."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

RETRY_AFTER_S = 1
"""When a client that was sent away shall come back."""


class QueueFullError(Exception):
    """No room for a request now."""


class Admission:
    """Counts the answers that wait or are judged."""

    def __init__(self, max_pending: int) -> None:
        self.max_pending = max_pending
        self.pending = 0

    @contextmanager
    def admit(self, num_answers: int) -> Generator[None]:
        """Room for a request until the context ends. Raises QueueFullError if there is none."""
        if self.pending + num_answers > self.max_pending:
            raise QueueFullError(
                f"{self.pending} answers wait or are judged, and {num_answers} more would pass "
                f"the limit of {self.max_pending}"
            )
        self.pending += num_answers
        try:
            yield
        finally:
            self.pending -= num_answers
