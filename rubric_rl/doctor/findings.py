"""What a check found: one line, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_rl.errors import RubricRLError

Status = Literal["ok", "warn", "fail", "skip"]
"""`warn`: a run works, worse than it could; `fail`: it would not; `skip`: not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    status: Status
    name: str
    text: str
    """What was found, in one line."""
    remedy: str | None = None
    """What to do, of a warning or a failure; None where `text` says it."""

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"{self.status:<5} {self.name:<14} {self.told}"

    @property
    def told(self) -> str:
        """What was found and what to do, in one line."""
        remedy = f": {self.remedy}" if self.remedy else ""
        return " ".join(f"{self.text}{remedy}".split())


def ok(name: str, text: str) -> Finding:
    return Finding(status="ok", name=name, text=text)


def warn(name: str, text: str, remedy: str) -> Finding:
    return Finding(status="warn", name=name, text=text, remedy=remedy)


def fail(name: str, text: str, remedy: str | None = None) -> Finding:
    return Finding(status="fail", name=name, text=text, remedy=remedy)


def tried(name: str, probe: Callable[[], str]) -> Finding:
    """What `probe` says; where it raises one of our errors, that, which says what to change."""
    try:
        return ok(name, probe())
    except RubricRLError as err:
        return fail(name, str(err))


def worst(findings: Sequence[Finding]) -> Status:
    """Of all findings; `ok` of none."""
    for status in ("fail", "warn"):
        if any(finding.status == status for finding in findings):
            return status
    return "ok"
