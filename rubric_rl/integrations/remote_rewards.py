"""Rewards from a server (`rubric-rl serve`), with the standard library alone."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from rubric_rl.errors import ConfigError, DataError, EndpointError, WorkerTimeoutError
from rubric_rl.integrations.scored_answers import ScoredAnswer, ScoreRequest

# Answers in one request, and requests at once: small enough that one slow answer holds up few.
_LOT = 16
_REQUESTS_AT_ONCE = 16
_WAIT_S = 2.0
_COME_BACK = (429, 502, 503, 504)


class RemoteRewards:
    """Asks a reward server; waits while it is full or out of reach."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        """`timeout_s` is the longest wait for the rewards of one call to `score`.

        Raises ConfigError: `url` is no http address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ConfigError(
                "the address of the reward server must be as in http://host:8900, without "
                "credentials: the key goes into the environment variable RUBRIC_RL_API_KEY"
            )
        self._url = f"{url.rstrip('/')}/v1/score"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoredAnswer]:
        """In the order of `requests`.

        Raises:
            ConfigError: the key is wrong.
            DataError: the server refuses the requests, as for an unknown prompt.
            EndpointError: the server fails, or isn't reached in time.
            WorkerTimeoutError: it has no room in time.
        """
        if not requests:
            return []
        deadline = time.monotonic() + self._timeout_s
        lots = [requests[start : start + _LOT] for start in range(0, len(requests), _LOT)]
        with ThreadPoolExecutor(min(len(lots), _REQUESTS_AT_ONCE)) as pool:
            scored = pool.map(lambda lot: self._score_lot(lot, deadline), lots)
            return [answer for lot in scored for answer in lot]

    def _score_lot(self, lot: Sequence[ScoreRequest], deadline: float) -> list[ScoredAnswer]:
        body = {"answers": [_answer_in(request) for request in lot], "verdicts": False}
        results = self._post(json.dumps(body).encode(), deadline)["results"]
        names = ("prompt_id", "reward", "coverage", "unscored")
        return [ScoredAnswer(**{name: result[name] for name in names}) for result in results]

    def _post(self, body: bytes, deadline: float) -> dict[str, Any]:
        request = urllib.request.Request(self._url, body, self._headers)
        while True:
            left_s = deadline - time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=max(left_s, 0.1)) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as err:
                wait_s, failure = self._after_status(err)
            except (OSError, HTTPException) as err:
                failure = EndpointError(f"no answer from the reward server {self._url}: {err}")
                wait_s = _WAIT_S
            except ValueError as err:
                raise EndpointError(f"{self._url} answers something else than JSON") from err
            if time.monotonic() + wait_s >= deadline:
                raise failure
            time.sleep(wait_s)

    def _after_status(self, err: urllib.error.HTTPError) -> tuple[float, Exception]:
        """How long to wait and what to raise if that is too long, or raises at once."""
        with err:
            words = _words(err.read())
        if err.code == 401:
            raise ConfigError(f"{self._url}: {words} (RUBRIC_RL_API_KEY)") from None
        if err.code in (411, 413, 422):
            raise DataError(f"the reward server refuses: {words}") from None
        if err.code not in _COME_BACK:
            raise EndpointError(f"{self._url} fails with HTTP {err.code}: {words}") from None
        given = err.headers.get("Retry-After", "")
        wait_s = float(given) if given.isdecimal() else _WAIT_S
        failure = WorkerTimeoutError(
            f"the reward server {self._url} had no rewards in {self._timeout_s:g} s: {words}"
        )
        return wait_s, failure


def _answer_in(request: ScoreRequest) -> dict[str, object]:
    # JSON can't hold half a surrogate pair; no tokenizer should give one.
    fields: dict[str, object] = {"response": request.response.encode("utf-8", "replace").decode()}
    if request.prompt_id is not None:
        fields["prompt_id"] = request.prompt_id
    if request.messages is not None:
        fields["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    return fields


def _words(body: bytes) -> str:
    """What the server says is wrong."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
