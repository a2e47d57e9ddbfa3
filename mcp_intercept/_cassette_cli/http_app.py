"""Streamable HTTP as an ASGI application, in both eras of the protocol, on either SDK line.

Up to 2025-11-25 a client begins a session with `initialize`, and names it in a header from then on. From 2026-07-28 on,
each POST stands for itself. The SDK's own transports are not used: they belong to its server objects, each line has
others, and one of them does not know 2026-07-28.
"""

from __future__ import annotations

import re
from itertools import count
from typing import Any, Final
from uuid import uuid4

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_intercept._cassette_cli.http_channels import Channel, Commons, Stream
from mcp_intercept._cassette_cli.serve import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Pace,
    Served,
    frame_of,
    message_of,
    refusal,
)
from mcp_intercept.recording.assembly import LISTEN
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.played import METHOD_NOT_FOUND
from mcp_intercept.recording.recorder import SUBSCRIPTION_ID
from mcp_intercept.recording.values import decode, encode

PATH: Final = "/mcp"
SESSION: Final = "mcp-session-id"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
MOST_BYTES: Final = 16 * 1024 * 1024
"""How long the body of a request may be."""
MOST_SESSIONS: Final = 256
"""How many sessions there are at a time. What one more ends is the one that was silent longest."""
SECONDS_TO_COMMENT: Final = 15.0
"""How often something is sent to those who only listen."""
_NAMES: Final = r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?"
_HOST: Final = re.compile(_NAMES)
ORIGIN: Final = re.compile(f"https?://{_NAMES}")
"""Where pages may come from that are clients: of this machine, wherever the server listens. A page of the server's own
address would be one whose author has turned a name of theirs into it; the server has no pages."""
_VERSION: Final = "mcp-protocol-version"
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_FIRST_MODERN: Final = "2026-07-28"
_VERSIONS: Final = (_FIRST_MODERN, "2025-11-25")
_UNSUPPORTED_VERSION: Final = -32022
_SSE: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
_COMMENT: Final[dict[str, Any]] = {"type": "http.response.body", "body": b": \r\n\r\n", "more_body": True}
_JSON: Final = {"content-type": "application/json"}


class App:
    """The ASGI application.

    Args:
        cassette: The cassette.
        host: Where it listens.
    """

    def __init__(self, cassette: Served, host: str) -> None:
        self._cassette = cassette
        self._sessions: dict[str, Channel] = {}  # the one that was silent longest is the first
        self._modern = Commons(cassette)
        self._ids = count(1)
        # Other names lead to this machine only where somebody has turned a name of theirs into its address.
        self._knows_its_names = host in LOOPBACK

    def close(self) -> None:
        """End all that is on its way."""
        for channel in (*self._sessions.values(), self._modern):
            channel.end(": the server ends")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        request = Request(scope, receive)
        await (await self._answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        refused = self._stranger(request)
        if refused is not None:
            return refused
        if request.url.path.rstrip("/") != PATH:
            return _refused(404, f"there is nothing here; the endpoint is {PATH}")
        if request.method == "POST":
            return await self._post(request)
        if request.method == "GET":
            return self._get(request)
        if request.method == "DELETE":
            return self._delete(request)
        return Response(status_code=405, headers={"allow": "GET, POST, DELETE"})

    def _stranger(self, request: Request) -> Response | None:
        """What to answer to a page that is not of this machine, also where it has a name that leads here."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self._knows_its_names and _HOST.fullmatch(host) is None:
            return _refused(421, "this is no name of this server")
        if origin is not None and ORIGIN.fullmatch(origin) is None:
            return _refused(403, "pages from there may not talk to this server")
        return None

    def _session(self, request: Request) -> Channel | None:
        session_id = request.headers.get(SESSION, "")
        channel = self._sessions.pop(session_id, None)
        if channel is None or channel.has_ended:
            return None
        self._sessions[session_id] = channel
        return channel

    def _begin_session(self) -> tuple[str, Channel]:
        if len(self._sessions) >= MOST_SESSIONS:
            silent = next(iter(self._sessions))
            self._sessions.pop(silent).end(": too many sessions have begun since")
        session_id = uuid4().hex
        channel = self._sessions[session_id] = Channel(self._cassette)
        return session_id, channel

    def _get(self, request: Request) -> ASGIApp:
        if SESSION not in request.headers:
            return Response(status_code=405, headers={"allow": "POST"})
        channel = self._session(request)
        if channel is None:
            return _no_session()
        if channel.rest.is_read:
            return _refused(409, "this session has such a stream already")
        return _Rest(channel)

    def _delete(self, request: Request) -> Response:
        channel = self._session(request)
        if channel is None:
            return _no_session()
        del self._sessions[request.headers[SESSION]]
        channel.end(": the session was deleted")
        return Response(status_code=200)

    async def _post(self, request: Request) -> ASGIApp:
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            return _refused(400, "the content type has to be application/json")
        body = await _body_of(request)
        if body is None:
            return _refused(413, f"a message may have {MOST_BYTES} bytes at most")
        try:
            value = decode(body)
        except ValueError:
            return _refused(400, "this is no JSON", PARSE_ERROR)
        try:
            frame = frame_of(value)
        except ValueError as error:
            return _refused(400, str(error))
        version = request.headers.get(_VERSION, "")
        if version and _DATE.fullmatch(version) is None:
            return _refused_version(frame, version)
        if SESSION in request.headers:
            channel = self._session(request)
            return _no_session() if channel is None else self._in_session(channel, frame, {})
        if frame.method == "initialize" and frame.id is not None:
            session_id, channel = self._begin_session()
            return self._in_session(channel, frame, {SESSION: session_id})
        if version >= _FIRST_MODERN:
            return self._alone(frame)
        return _refused(400, "there is no session; begin one with initialize, and send its id in Mcp-Session-Id")

    def _in_session(self, channel: Channel, frame: Frame, headers: dict[str, str]) -> ASGIApp:
        if frame.id is None or frame.method is None:
            channel.take(frame)
            return Response(status_code=202)
        try:
            stream = channel.ask(frame)
        except ValueError as error:
            return _refused(400, str(error))
        return _Answer(channel, stream, headers)

    def _alone(self, frame: Frame) -> ASGIApp:
        if frame.method is None:
            return _refused(400, "a server of this version sends no requests, so there is nothing to answer")
        if frame.id is None:
            return Response(status_code=202)  # as of 2026-07-28, there are none that mean anything
        # Ids are those of clients who know nothing of each other.
        own_id = next(self._ids)
        stream = self._modern.ask(frame._replace(id=own_id))
        return _ModernAnswer(self._modern, stream, own_id, frame)


async def _body_of(request: Request) -> bytes | None:
    """The body; `None` if it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


class _Events:
    """An answer that is streamed, for as long as the client listens."""

    def __init__(self, channel: Channel, stream: Stream) -> None:
        self._channel = channel
        self._stream = stream
        self._pace = Pace()
        self._is_open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(leave)
            tasks.start_soon(self._keep_open, send)
            try:
                await self._run(send)
            finally:
                self._left()
            tasks.cancel_scope.cancel()

    async def _run(self, send: Send) -> None:
        raise NotImplementedError  # it is what the two kinds of streams differ in

    def _left(self) -> None:
        """Nobody listens any longer."""

    def _told(self, frame: Frame) -> Frame:
        """The message as the client knows it."""
        return frame

    async def _begin_events(self, send: Send, headers: dict[str, str]) -> None:
        await _begin(send, 200, {**_SSE, **headers})
        # With a comment, as a client may wait for the head before it goes on.
        await send(_COMMENT)
        self._is_open = True

    async def _keep_open(self, send: Send) -> None:
        # Node gives a stream up on which nothing has come for five minutes.
        while True:
            await anyio.sleep(SECONDS_TO_COMMENT)
            if self._is_open:
                await send(_COMMENT)

    async def _event(self, send: Send, frame: Frame) -> None:
        await anyio.sleep(self._pace.before(frame))
        data = b"event: message\r\ndata: " + encode(message_of(self._told(frame))) + b"\r\n\r\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _go_on(self, send: Send) -> None:
        while (frame := await self._channel.next(self._stream)) is not None:
            await self._event(send, frame)
        self._is_open = False
        await send({"type": "http.response.body", "body": b""})


class _Rest(_Events):
    """What belongs to no request."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel, channel.rest)
        channel.rest.is_read = True

    async def _run(self, send: Send) -> None:
        await self._begin_events(send, {})
        await self._go_on(send)

    def _left(self) -> None:
        self._stream.is_read = False


class _Answer(_Events):
    """The answer to a request: JSON if it is only that, else a stream that ends with it."""

    def __init__(self, channel: Channel, stream: Stream, headers: dict[str, str]) -> None:
        super().__init__(channel, stream)
        self._headers = headers
        self._at_once = False

    async def _run(self, send: Send) -> None:
        first = None if self._at_once else await self._channel.next(self._stream)
        if self._at_once:
            await self._begin_events(send, self._headers)
            await self._go_on(send)
        elif first is None:
            await _begin(send, 202, self._headers)  # the client has cancelled it
            await send({"type": "http.response.body", "body": b""})
        elif first.method is None:
            await _begin(send, self._status(first), {**_JSON, **self._headers})
            await send({"type": "http.response.body", "body": encode(message_of(self._told(first)))})
        else:
            await self._begin_events(send, self._headers)
            await self._event(send, first)
            await self._go_on(send)

    def _status(self, frame: Frame) -> int:
        return 200


class _ModernAnswer(_Answer):
    """The same where ids are not those of the client, and to leave is to cancel."""

    def __init__(self, channel: Channel, stream: Stream, own_id: int, asked: Frame) -> None:
        super().__init__(channel, stream, {})
        self._own_id = own_id
        self._asked = asked
        self._at_once = asked.method == LISTEN

    def _told(self, frame: Frame) -> Frame:
        if frame.method is None:
            return frame._replace(id=self._asked.id)
        meta: dict[str, Any] = (frame.params or {}).get("_meta") or {}
        if meta.get(SUBSCRIPTION_ID) == self._own_id:
            params = {**(frame.params or {}), "_meta": {**meta, SUBSCRIPTION_ID: self._asked.id}}
            return frame._replace(params=params)
        return frame

    def _status(self, frame: Frame) -> int:
        # (Specification 2026-07-28, "Streamable HTTP", of methods that a server does not know.)
        return 404 if frame.error is not None and frame.error.get("code") == METHOD_NOT_FOUND else 200

    def _left(self) -> None:
        self._channel.take(Frame(method="notifications/cancelled", params={"requestId": self._own_id}))


async def _begin(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


def _refused(status: int, message: str, code: int = INVALID_REQUEST) -> Response:
    return _error(status, refusal(code, message))


def _refused_version(frame: Frame, version: str) -> Response:
    error = {"code": _UNSUPPORTED_VERSION, "message": "this is no version of the protocol"}
    return _error(400, Frame(frame.id, error={**error, "data": {"supported": _VERSIONS, "requested": version}}))


def _no_session() -> Response:
    return _refused(404, "there is no such session; begin one with initialize")


def _error(status: int, frame: Frame) -> Response:
    return Response(encode(message_of(frame)), status, _JSON)
