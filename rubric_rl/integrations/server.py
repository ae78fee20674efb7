"""The reward server: answers in over HTTP, rewards out.

    POST /v1/score     our format, see `wire`: reward, coverage and verdicts of each answer
    POST /get_reward   OpenRLHF's {query, prompts, labels} -> {rewards, scores, extra_logs}
    GET  /health       without a key
    GET  /metrics      Prometheus

An answer that can't be scored is never a number. `/v1/score` says why in its place; a batch of
`/get_reward` is refused whole, or has NaN there, as the server is told.

    401 key   411, 413 size   422 a request that makes no sense, or an unknown prompt
    429 no room, come back after `Retry-After`   503 `/get_reward` with an answer unscored
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from rubric_rl import __version__
from rubric_rl.errors import DataError, JudgeFailureError
from rubric_rl.integrations.admission import RETRY_AFTER_S, Admission, QueueFullError
from rubric_rl.integrations.gate import OPEN_PATH, Gate
from rubric_rl.integrations.openrlhf_format import END_OF_TURN, reply_of, score_requests
from rubric_rl.integrations.prometheus import ServerMetrics
from rubric_rl.integrations.scored_answers import ScoredAnswer, ScoreRequest
from rubric_rl.integrations.scorer import Scorer
from rubric_rl.integrations.wire import OpenRlhfIn, ScoreIn, requests_of, result_out
from rubric_rl.judging.graded_rows import GradedRow
from rubric_rl.observability.printable import printable

logger = logging.getLogger(__name__)

_SHOWN_PROBLEMS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one server takes, and how it answers."""

    max_pending: int = 2048
    """Answers that may wait or be judged at once."""
    max_answers: int = 512
    """Answers in one request."""
    max_body_bytes: int = 16 << 20
    timeout_s: float = 170.0
    """Longest time for a request; OpenRLHF's client waits 180 s."""
    unscored: Literal["error", "nan"] = "error"
    """What `/get_reward` does with an answer that has no reward."""
    end_of_turn: tuple[str, ...] = END_OF_TURN
    """Tokens that `/get_reward` takes off the end of an answer."""


class TooManyAnswersError(Exception):
    """A request with more answers than a server ever takes."""


_STATUS = {DataError: 422, TooManyAnswersError: 413, JudgeFailureError: 503, QueueFullError: 429}


class _PlainJson(JSONResponse):
    """ASCII, as a judge's words may hold half a surrogate pair; NaN where a server is told to."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, ensure_ascii=True).encode()


def create_app(scorer: Scorer, limits: ServerLimits, *, api_key: str | None = None) -> FastAPI:
    """The server as an ASGI application, for the event loop that the scorer is on.

    `api_key` of None lets everybody in.
    """
    api = _RewardApi(scorer, limits)
    posts = {"/v1/score": api.score, "/get_reward": api.get_reward}
    gets = {OPEN_PATH: api.health, "/metrics": api.show_metrics}
    app = FastAPI(title="rubric_rl rewards", version=__version__, docs_url=None, redoc_url=None)
    for method, endpoints in (("POST", posts), ("GET", gets)):
        for path, endpoint in endpoints.items():
            app.add_api_route(path, endpoint, methods=[method])
    for error in _STATUS:
        app.add_exception_handler(error, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(
        Gate,
        api_key=api_key,
        max_body_bytes=limits.max_body_bytes,
        metrics=api.metrics,
        paths=frozenset({*posts, *gets}),
    )
    return app


class _RewardApi:
    """The endpoints."""

    def __init__(self, scorer: Scorer, limits: ServerLimits) -> None:
        self.metrics = ServerMetrics()
        self._scorer = scorer
        self._limits = limits
        self._admission = Admission(limits.max_pending)
        self.metrics.pending.set_function(lambda: self._admission.pending)

    async def score(self, body: ScoreIn) -> Response:
        scored, rows = await self._scored(requests_of(body))
        results = [
            result_out(answer, row, verdicts=body.verdicts)
            for answer, row in zip(scored, rows, strict=True)
        ]
        return _PlainJson({"results": results})

    async def get_reward(self, body: OpenRlhfIn) -> Response:
        limits = self._limits
        requests = score_requests(body.query, body.prompts, body.labels, limits.end_of_turn)
        scored, _ = await self._scored(requests)
        return _PlainJson(reply_of(scored, limits.unscored))

    async def health(self) -> dict[str, object]:
        return {
            "status": "ok",
            "prompts": len(self._scorer.lookup),
            "pending_answers": self._admission.pending,
            "max_pending_answers": self._admission.max_pending,
        }

    async def show_metrics(self) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _scored(
        self, requests: Sequence[ScoreRequest]
    ) -> tuple[list[ScoredAnswer], list[GradedRow | None]]:
        most = min(self._limits.max_answers, self._limits.max_pending)
        if len(requests) > most:
            raise TooManyAnswersError(f"got {len(requests)} answers, at most {most} in a request")
        answers = [self._scorer.answer(request) for request in requests]
        with self._admission.admit(len(answers)):
            rows = await self._scorer.grade(answers, self._limits.timeout_s)
        self.metrics.add(rows)
        return [self._scorer.scored(*pair) for pair in zip(answers, rows, strict=True)], rows


async def _refused(request: Request, err: Exception) -> Response:
    status = _STATUS[type(err)]
    # OpenRLHF's client tells nobody what a server says.
    logger.warning("%s: HTTP %d: %s", request.url.path, status, printable(str(err)))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(err, QueueFullError) else None
    return _PlainJson({"error": str(err)}, status, headers)


async def _invalid(_: Request, err: Exception) -> Response:
    """Where the body is wrong, without the body itself."""
    assert isinstance(err, RequestValidationError)
    found = err.errors()
    problems = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in found[:_SHOWN_PROBLEMS]]
    more = len(found) - len(problems)
    listed = "; ".join(problems) + (f"; and {more} more" if more else "")
    return _PlainJson({"error": listed}, 422)
