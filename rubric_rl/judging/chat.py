"""What a judge needs of a chat model, whatever serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rubric_rl.types import FailureCause, Message

JsonSchema = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """One reply, as the server gave it."""

    text: str
    finish_reason: str
    """`length` when the reply was cut; empty if the server didn't say."""
    prompt_tokens: int
    completion_tokens: int


class ChatError(Exception):
    """A call gave no reply. Caught by the judge, which makes verdicts UNKNOWN of it."""

    def __init__(self, cause: FailureCause, message: str, status: int | None = None) -> None:
        super().__init__(cause, message, status)
        self.cause = cause
        self.message = message
        self.status = status
        """HTTP status of the answer that refused the call; None if there was no answer."""

    def __str__(self) -> str:
        return self.message


class ChatClient(Protocol):
    """One chat model."""

    async def complete(
        self, messages: Sequence[Message], *, schema: JsonSchema | None, max_tokens: int
    ) -> ChatReply:
        """Return the model's reply to `messages`, constrained by `schema` if there is one.

        Raises:
            ChatError: no reply, after the client's own retries.
        """
        ...
