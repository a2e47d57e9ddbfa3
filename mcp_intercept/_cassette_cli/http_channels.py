"""Which message belongs on which HTTP response, in sessions and without: all of serving by HTTP but HTTP itself."""

from __future__ import annotations

import re
from collections import deque
from itertools import count
from typing import Any, Final

import anyio

from mcp_intercept._cassette_cli.serve import Connection, Served
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.misses import MISS_CODE
from mcp_intercept.recording.played import Closed
from mcp_intercept.recording.values import is_object

_MOST_GENERATIONS: Final = 16
# What a client is to send back with its answers, behind the number of the generation that has asked.
_STATE = re.compile(r"(\d{1,9})/(.*)", re.DOTALL)
_CLOSED: Final = -32000  # as the SDK has it where a connection has ended


class Stream:
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


class Channel:
    """A session, whose messages find the HTTP response that they belong on.

    Args:
        cassette: The cassette.
    """

    def __init__(self, cassette: Served) -> None:
        self.rest = Stream()
        """What belongs to no request of the client."""
        self.has_ended = False
        self._patience = cassette.patience
        self._streams: dict[str | int, Stream] = {}
        self._asked: dict[str | int, Stream] = {}
        self._current = self.rest
        self._connection = self._connect(cassette)

    def _connect(self, cassette: Served) -> Connection:
        return cassette.connect(self._emit)

    def ask(self, frame: Frame) -> Stream:
        """Take a request; the answer comes on the stream.

        Raises:
            ValueError: Another request with this id has no answer yet.
        """
        assert frame.id is not None  # noqa: S101 - it is a request
        if frame.id in self._streams:
            raise ValueError("another request with this id has not been answered yet")
        stream = self._streams[frame.id] = Stream()
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

    def _take(self, frame: Frame, stream: Stream) -> None:
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
        self.end(_as_then(closed))

    def _refuse(self, request_id: str | int | None, why: str) -> None:
        # An HTTP connection that breaks would be tried again, and an answer that is empty be waited for.
        self._emit(Frame(id=request_id, error={"code": _CLOSED, "message": f"Connection closed{why}"}))

    def end(self, why: str) -> None:
        """End all that is on its way.

        Args:
            why: What those are told who wait for an answer, as the end of a sentence.
        """
        for request_id in list(self._streams):
            self._refuse(request_id, why)
        self.has_ended = True
        self.rest.end()

    async def next(self, stream: Stream) -> Frame | None:
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


class Commons(Channel):
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

    def _take(self, frame: Frame, stream: Stream) -> None:
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
            # States are those of connections that know nothing of each other, and what was recorded is always the same.
            state = sent.result.get("requestState")
            if isinstance(state, str):
                sent = sent._replace(result={**sent.result, "requestState": f"{number}/{state}"})
        self._emit(sent)

    def _close(self, closed: Closed) -> None:
        self._refuse(self._frame.id, _as_then(closed))


def _as_then(closed: Closed) -> str:
    return f", as it was then: {closed.how}"


def _is_used_up(error: dict[str, Any]) -> bool:
    data = error.get("data")
    return error.get("code") == MISS_CODE and is_object(data) and data.get("reason") == "used up"
