"""What a request passes before it is read: the key, and the size of its body."""

from __future__ import annotations

import secrets
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rubric_rl.integrations.prometheus import ServerMetrics

OPEN_PATH = "/health"
"""Answered without a key, for probes."""


class Gate:
    """ASGI middleware: refuses what may not pass, and counts every request with its status."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        max_body_bytes: int,
        metrics: ServerMetrics,
        paths: frozenset[str],
    ) -> None:
        """Other paths than `paths` are counted together: anybody can think of a new one."""
        self._app = app
        self._key = None if api_key is None else api_key.encode()
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        # What an exception becomes further out.
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, receive, noted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_s.labels(path).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if scope["path"] != OPEN_PATH and not self._is_known(headers):
            what = "send the server's key as `Authorization: Bearer KEY`"
            return JSONResponse({"error": what}, 401, {"WWW-Authenticate": "Bearer"})
        if scope["method"] != "POST":
            return None
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return JSONResponse({"error": "send the body with its Content-Length"}, 411)
        if int(length) > self._max_body_bytes:
            what = f"the body has {length} bytes, at most {self._max_body_bytes} are read"
            return JSONResponse({"error": f"{what}: send fewer answers at once"}, 413)
        return None

    def _is_known(self, headers: Headers) -> bool:
        """Takes as long for a wrong key as for another, wherever they differ."""
        if self._key is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers are Latin-1 by the protocol.
        matches = secrets.compare_digest(given.strip().encode("latin-1"), self._key)
        return matches and scheme.lower() == "bearer"
