"""What a request must pass before the application sees it: who it is for, who sends it, how big it is."""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .reading import SMALL

MOST_BYTES = 4 * 2**20
"""Of a body."""
MOST_HELD = 4 * MOST_BYTES
"""Of all large bodies together, from their first byte to the answer."""
PATIENCE = 10.0
"""Seconds in which a body must have arrived."""


class Refusal(Exception):
    """A request that is answered here, with this status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """ASGI middleware. It refuses, before a body is read: who does not know the token (401); what a browser sends for
    another site's page (403); where `hosts` are given, what is addressed to another (403: a name was bound anew to this
    machine). Then a body above MOST_BYTES (413), one that does not arrive (408), and a large one that finds MOST_HELD
    bytes of others (503)."""

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: frozenset[str] | None) -> None:
        self._app, self._token, self._hosts = app, token, hosts
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = bytearray()
        try:
            refusal = await self._refusal(scope, receive, body)
            if refusal is None:
                return await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._held -= _cost(body)
        headers = {"connection": "close", **({"www-authenticate": "Bearer"} if refusal.status == 401 else {})}
        await JSONResponse({"detail": str(refusal)}, refusal.status, headers)(scope, receive, send)

    async def _refusal(self, scope: Scope, receive: Receive, body: bytearray) -> Refusal | None:
        """Why a request is refused; None: it is not, and `body` has its body."""
        try:
            self._check(Headers(scope=scope))
            await asyncio.wait_for(self._take(body, receive), PATIENCE)
        except asyncio.TimeoutError:  # noqa: UP041 (another class in Python 3.10)
            return Refusal(408, f"the body did not arrive within {PATIENCE:g} seconds")
        except Refusal as error:
            return error
        return None

    async def _take(self, body: bytearray, receive: Receive) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(408, "the client left before the end of the body")
            more = message.get("more_body", False)
            before = _cost(body)
            body += message.get("body", b"")
            self._held += _cost(body) - before
            if len(body) > MOST_BYTES:
                raise _too_big()
            if self._held > MOST_HELD and _cost(body):
                raise Refusal(503, f"large bodies of {MOST_HELD:,} bytes are being read; send this one again later")

    def _check(self, headers: Headers) -> None:
        if self._token is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self._token.encode()):
                raise Refusal(401, "a bearer token is needed, in the header Authorization")
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Refusal(
                403, f"this service answers requests for {', '.join(sorted(self._hosts))}, not for {_name(host) or 'a host without a name'}"
            )
        origin = headers.get("origin")
        if origin is not None and _site(origin) != host.lower():
            raise Refusal(403, "pages of other sites may not use this service")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BYTES:
            raise _too_big()


def _name(host: str) -> str:
    """The host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _site(origin: str) -> str | None:
    """Its host and port; None where it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _cost(body: bytearray) -> int:
    """Small ones have room beside any others, as there are not many connections."""
    return len(body) if len(body) > SMALL else 0


def _too_big() -> Refusal:
    return Refusal(413, f"the body is larger than {MOST_BYTES:,} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body as one message, then what comes."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
