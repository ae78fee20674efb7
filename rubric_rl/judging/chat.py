"""What a judge needs of a chat model, whatever serves it.

    RubricJudge --ChatRequest--> Caller --(one attempt each)--> ChatClient
                <--CallResult---        <-- ChatReply | ChatError

A `ChatClient` makes one attempt at one endpoint. A `Caller` makes as many as it
takes, within the budget, and never raises: what went wrong is in its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rubric_rl.types import FailureCause, JudgeContract, JudgeUsage, Message

JsonSchema = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One question to a chat model."""

    messages: tuple[Message, ...]
    contract: JudgeContract
    """What the server is asked to enforce: the schema, any JSON object, or nothing."""
    schema: JsonSchema | None
    """The reply's JSON schema; set exactly when the contract is `structured_outputs`."""
    max_tokens: int
    """Longest reply, thinking included."""
    logprobs: bool = False
    """Ask for the log-probs of the reply's tokens and of their nearest alternatives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogProbs:
    """One token of a reply with the likeliest tokens at its place, itself mostly among them."""

    text: str
    log_prob: float
    top: Mapping[str, float] = field(default_factory=dict[str, float])
    """Log-prob by token text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """One reply, as the server gave it."""

    text: str
    finish_reason: str
    """`length` when the reply was cut; empty if the server didn't say."""
    prompt_tokens: int
    completion_tokens: int
    model: str = ""
    """The model that says it answered; empty if the server didn't say."""
    tokens: tuple[TokenLogProbs, ...] = ()
    """Empty unless log-probs were asked for and the server has them."""


class ChatError(Exception):
    """An attempt gave no reply."""

    def __init__(
        self,
        cause: FailureCause,
        message: str,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(cause, message, status, retry_after_s)
        self.cause = cause
        self.message = message
        self.status = status
        """HTTP status of the answer that refused the call; None if there was no answer."""
        self.retry_after_s = retry_after_s
        """Seconds that the server asked to wait; None if it didn't say."""

    def __str__(self) -> str:
        return self.message


class ChatClient(Protocol):
    """One chat model at one endpoint."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Make one attempt.

        Raises:
            ChatError: no reply, with its cause. Nothing was retried.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What came of a call: a reply or the last error, and what it took either way."""

    usage: JudgeUsage
    reply: ChatReply | None = None
    error: ChatError | None = None

    def __post_init__(self) -> None:
        assert (self.reply is None) != (self.error is None)


class Caller(Protocol):
    """A chat model behind retries, failover, hedges and the budget."""

    async def call(self, request: ChatRequest) -> CallResult:
        """Never raises for what the network, a server or the budget does."""
        ...


def total_chars(messages: Sequence[Message]) -> int:
    """Characters of all turns, for estimates of tokens."""
    return sum(len(message.content) for message in messages)
