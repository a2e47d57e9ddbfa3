"""A cassette as streamable HTTP, in both eras of the protocol, on either SDK line.

Up to 2025-11-25 a client begins a session with `initialize`, and names it in a header from then on. From 2026-07-28 on,
each POST stands for itself. The SDK's own transports are not used: they belong to its server objects, each line has
others, and one of them does not know 2026-07-28.
"""

from __future__ import annotations

import re
import socket
import sys
from collections import deque
from itertools import count
from typing import Any, Final
from uuid import uuid4

import anyio
import uvicorn
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_intercept._cassette_cli.serve import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Connection,
    Served,
    frame_of,
    message_of,
    refusal,
)
from mcp_intercept.recording.assembly import LISTEN
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.misses import MISS_CODE
from mcp_intercept.recording.played import METHOD_NOT_FOUND, Closed
from mcp_intercept.recording.recorder import SUBSCRIPTION_ID
from mcp_intercept.recording.values import decode, encode, is_object

PATH: Final = "/mcp"
_SESSION: Final = "mcp-session-id"
_VERSION: Final = "mcp-protocol-version"
_FIRST_MODERN: Final = "2026-07-28"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_ORIGINS: Final = (("http", ""), ("http", ":*"), ("https", ""), ("https", ":*"))
_SSE: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
_JSON: Final = {"content-type": "application/json"}
_MOST_GENERATIONS: Final = 16
# Of the states that `PlayedConnection` makes up; and with the number of the generation before it.
_OWN_STATE = re.compile(r"mcp-intercept-\d+")
_STATE = re.compile(rf"(\d{{1,9}})/({_OWN_STATE.pattern})")
_CLOSED: Final = -32000  # as the SDK has it where a connection has ended


class _Stream:
    """What the server sends on the answer to one HTTP request."""

    def __init__(self) -> None:
        self.messages: deque[Frame] = deque()
        self.has_ended = False
        self.is_read = False
        self.connection: Connection | None = None
        """Where the messages come from, if that is known."""
        self._changed = anyio.Event()

    def put(self, frame: Frame) -> None:
        self.messages.append(frame)
        self.wake()

    def end(self) -> None:
        self.has_ended = True
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def changed(self) -> None:
        await self._changed.wait()


class _Channel:
    """A session, whose messages find the HTTP response that they belong on.

    Args:
        cassette: The cassette.
    """

    def __init__(self, cassette: Served) -> None:
        self.rest = _Stream()
        """What belongs to no request of the client."""
        self.has_ended = False
        self._patience = cassette.patience
        self._streams: dict[str | int, _Stream] = {}
        self._asked: dict[str | int, _Stream] = {}
        self._current = self.rest
        self._connection = self._connect(cassette)

    def _connect(self, cassette: Served) -> Connection:
        return cassette.connect(self._emit)

    def ask(self, frame: Frame) -> _Stream:
        """Take a request; the answer comes on the stream.

        Raises:
            ValueError: Another request with this id has no answer yet.
        """
        assert frame.id is not None  # noqa: S101 - it is a request
        if frame.id in self._streams:
            raise ValueError("another request with this id has not been answered yet")
        stream = self._streams[frame.id] = _Stream()
        stream.connection = self._connection
        self._take(frame, stream)
        return stream

    def take(self, frame: Frame) -> None:
        """Take a notification, or an answer."""
        if frame.method is None and frame.id is not None:
            self._take(frame, self._asked.pop(frame.id, self.rest))
        elif frame.method == "notifications/cancelled":
            about = (frame.params or {}).get("requestId")
            stream = self._streams.pop(about, None) if isinstance(about, (str, int)) else None
            self._take(frame, stream or self.rest)
            if stream is not None:
                stream.end()
        else:
            self._take(frame, self.rest)

    def _take(self, frame: Frame, stream: _Stream) -> None:
        self._current = stream
        (stream.connection or self._connection).take(frame)
        self._current = self.rest
        stream.wake()  # perhaps there is less to wait for now

    def _emit(self, sent: Frame | Closed) -> None:
        if isinstance(sent, Closed):
            self._close(sent)
        elif sent.method is None and sent.id in self._streams:
            stream = self._streams.pop(sent.id)
            stream.put(sent)
            stream.end()
        else:
            stream = self.rest if self._current.has_ended else self._current
            if sent.id is not None:
                self._asked[sent.id] = stream
            stream.put(sent)

    def _close(self, closed: Closed) -> None:
        for request_id in list(self._streams):
            self._refuse(request_id, closed)
        self.end()

    def _refuse(self, request_id: str | int | None, closed: Closed) -> None:
        # An HTTP connection that breaks would be tried again.
        error = {"code": _CLOSED, "message": f"Connection closed, as it was then: {closed.how}"}
        self._emit(Frame(id=request_id, error=error))

    def end(self) -> None:
        """End all that is on its way."""
        self.has_ended = True
        for stream in (*self._streams.values(), self.rest):
            stream.end()
        self._streams.clear()

    async def next(self, stream: _Stream) -> Frame | None:
        """What comes next on a stream; `None` at its end."""
        while not stream.messages and not stream.has_ended:
            connection = stream.connection
            if connection is None or not connection.waiting:
                await stream.changed()
                continue
            with anyio.move_on_after(self._patience):
                await stream.changed()
                continue
            connection.give_up()
        return stream.messages.popleft() if stream.messages else None


class _Commons(_Channel):
    """What all share who have no session. What is used up begins again, as nobody knows who is new."""

    def __init__(self, cassette: Served) -> None:
        self._cassette = cassette
        self._frame = Frame()
        self._numbers = count(1)
        self._generations: dict[int, Connection] = {}
        super().__init__(cassette)
        self.rest.messages = deque(maxlen=0)  # nobody reads it

    def _connect(self, cassette: Served) -> Connection:
        number = next(self._numbers)
        if number > _MOST_GENERATIONS:
            del self._generations[number - _MOST_GENERATIONS]
        connection = cassette.connect_anew(lambda sent: self._emit_of(number, sent))
        self._generations[number] = connection
        return connection

    def _take(self, frame: Frame, stream: _Stream) -> None:
        state = (frame.params or {}).get("requestState")
        match = _STATE.fullmatch(state) if isinstance(state, str) else None
        if match is not None and int(match[1]) in self._generations:
            stream.connection = self._generations[int(match[1])]
            frame = frame._replace(params={**(frame.params or {}), "requestState": match[2]})
        self._frame = frame
        super()._take(frame, stream)

    def _emit_of(self, number: int, sent: Frame | Closed) -> None:
        if isinstance(sent, Frame) and sent.id == self._frame.id and sent.error is not None and _is_used_up(sent.error):
            self._generations[number].forget_miss()
            self._connection = self._current.connection = self._connect(self._cassette)
            self._connection.take(self._frame)
            return
        if isinstance(sent, Frame) and sent.result is not None:
            # States are those of connections that know nothing of each other.
            state = sent.result.get("requestState")
            if isinstance(state, str) and _OWN_STATE.fullmatch(state):
                sent = sent._replace(result={**sent.result, "requestState": f"{number}/{state}"})
        self._emit(sent)

    def _close(self, closed: Closed) -> None:
        self._refuse(self._frame.id, closed)


def _is_used_up(error: dict[str, Any]) -> bool:
    data = error.get("data")
    return error.get("code") == MISS_CODE and is_object(data) and data.get("reason") == "used up"


class App:
    """The ASGI application.

    Args:
        cassette: The cassette.
        host: Where it listens.
    """

    def __init__(self, cassette: Served, host: str) -> None:
        self._cassette = cassette
        self._sessions: dict[str, _Channel] = {}
        self._modern = _Commons(cassette)
        self._ids = count(1)
        # Other names lead to this machine only where somebody has turned a name of theirs into its address.
        self._security = TransportSecurityMiddleware(
            TransportSecuritySettings(
                enable_dns_rebinding_protection=host in _LOOPBACK,
                allowed_hosts=[f"{name}:*" for name in _NAMES],
                allowed_origins=[f"{scheme}://{name}{port}" for name in _NAMES for scheme, port in _ORIGINS],
            )
        )

    def close(self) -> None:
        """End all that is on its way."""
        for channel in (*self._sessions.values(), self._modern):
            channel.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        request = Request(scope, receive)
        response: ASGIApp | None = await self._security.validate_request(request, is_post=request.method == "POST")
        if response is None:
            if request.url.path.rstrip("/") != PATH:
                response = _refused(404, f"there is nothing here; the endpoint is {PATH}")
            elif request.method == "POST":
                response = await self._post(request)
            elif request.method == "GET":
                response = self._get(request)
            elif request.method == "DELETE":
                response = self._delete(request)
            else:
                response = Response(status_code=405, headers={"allow": "GET, POST, DELETE"})
        await response(scope, receive, send)

    def _session(self, request: Request) -> _Channel | None:
        channel = self._sessions.get(request.headers.get(_SESSION, ""))
        return None if channel is None or channel.has_ended else channel

    def _get(self, request: Request) -> ASGIApp:
        if _SESSION not in request.headers:
            return Response(status_code=405, headers={"allow": "POST"})
        channel = self._session(request)
        if channel is None:
            return _refused(404, "there is no such session; begin one with initialize")
        if channel.rest.is_read:
            return _refused(409, "this session has such a stream already")
        return _Rest(channel)

    def _delete(self, request: Request) -> Response:
        channel = self._session(request)
        if channel is None:
            return _refused(404, "there is no such session; begin one with initialize")
        del self._sessions[request.headers[_SESSION]]
        channel.end()
        return Response(status_code=200)

    async def _post(self, request: Request) -> ASGIApp:
        try:
            value = decode(await request.body())
        except ValueError:
            return _refused(400, "this is no JSON", PARSE_ERROR)
        try:
            frame = frame_of(value)
        except ValueError as error:
            return _refused(400, str(error))
        if _SESSION in request.headers:
            channel = self._session(request)
            if channel is None:
                return _refused(404, "there is no such session; begin one with initialize")
            return self._in_session(channel, frame, {})
        if frame.method == "initialize" and frame.id is not None:
            session_id = uuid4().hex
            channel = self._sessions[session_id] = _Channel(self._cassette)
            return self._in_session(channel, frame, {_SESSION: session_id})
        if request.headers.get(_VERSION, "") >= _FIRST_MODERN:
            return self._alone(frame)
        return _refused(400, "there is no session; begin one with initialize, and send its id in Mcp-Session-Id")

    def _in_session(self, channel: _Channel, frame: Frame, headers: dict[str, str]) -> ASGIApp:
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


class _Events:
    """An answer that is streamed, for as long as the client listens."""

    def __init__(self, channel: _Channel, stream: _Stream) -> None:
        self._channel = channel
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(leave)
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
        await send({"type": "http.response.body", "body": b": \r\n\r\n", "more_body": True})

    async def _event(self, send: Send, frame: Frame) -> None:
        data = b"event: message\r\ndata: " + encode(message_of(self._told(frame))) + b"\r\n\r\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _go_on(self, send: Send) -> None:
        while (frame := await self._channel.next(self._stream)) is not None:
            await self._event(send, frame)
        await send({"type": "http.response.body", "body": b""})


class _Rest(_Events):
    """What belongs to no request."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__(channel, channel.rest)
        channel.rest.is_read = True

    async def _run(self, send: Send) -> None:
        await self._begin_events(send, {})
        await self._go_on(send)

    def _left(self) -> None:
        self._stream.is_read = False


class _Answer(_Events):
    """The answer to a request: JSON if it is only that, else a stream that ends with it."""

    def __init__(self, channel: _Channel, stream: _Stream, headers: dict[str, str]) -> None:
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

    def __init__(self, channel: _Channel, stream: _Stream, own_id: int, asked: Frame) -> None:
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
    return Response(encode(message_of(refusal(code, message))), status, _JSON)


class _Server(uvicorn.Server):
    """One that does not wait for clients who only listen."""

    def __init__(self, config: uvicorn.Config, app: App, listener: socket.socket) -> None:
        super().__init__(config)
        self._app = app
        self._listener = listener

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until somebody ends it."""
        with self._listener:
            await super().serve(sockets or [self._listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is on its way."""
        self._app.close()
        await super().shutdown(sockets)


def listen(cassette: Served, host: str, port: int) -> tuple[uvicorn.Server, str]:
    """Take a port.

    Args:
        cassette: What is served there.
        host: A name or address of this machine.
        port: The port; 0 for one that is free.

    Returns:
        The server, which listens already and is to be run, and its URL.

    Raises:
        OSError: The port cannot be had.
    """
    if host not in _LOOPBACK:
        sys.stderr.write(f"mcp-intercept: everybody who can reach {host} can talk to this server\n")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    # Else what is sent in two parts, as HTTP answers are, waits for the client to confirm the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app = App(cassette, host)
    # Clients may be pages, too, as long as they come from this machine.
    with_cors = CORSMiddleware(
        app,
        allow_origin_regex=rf"https?://({'|'.join(map(re.escape, _NAMES))})(:\d+)?",
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=[_SESSION],
    )
    config = uvicorn.Config(
        with_cors, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1, access_log=False
    )
    shown = f"[{host}]" if ":" in host else host
    return _Server(config, app, listener), f"http://{shown}:{listener.getsockname()[1]}{PATH}"


def serve_http(cassette: Served, host: str, port: int) -> int:
    """Serve as streamable HTTP until somebody ends the process; the value is the exit code.

    Raises:
        OSError: It cannot listen there.
    """
    server, url = listen(cassette, host, port)
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    server.run()
    return 0
