"""`cassette serve`: the server that a cassette was recorded with, for clients in any language."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from time import sleep
from typing import Any, Final

from mcp_intercept._cassette_cli.lines import opened, server_in
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.matching import Order, Rules
from mcp_intercept.recording.misses import Source
from mcp_intercept.recording.played import Closed, Emit, PlayedConnection
from mcp_intercept.recording.player import Player
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.store import CassetteFile
from mcp_intercept.recording.values import decode, encode, is_object

_WAY_OUT: Final = "record it with use_cassette() where the server is, and serve that"
PARSE_ERROR, INVALID_REQUEST = -32700, -32600
_PAUSE: Final = 0.02
"""Seconds between progress and the answer."""


class Replay:
    """One time through what was recorded.

    Args:
        player: What was recorded.
    """

    def __init__(self, player: Player) -> None:
        self.player = player
        self._told = [0, 0, 0]

    def report(self) -> None:
        """Tell on standard error what was asked in vain since the last time, or with other arguments."""
        player = self.player
        with player.lock:
            kinds: tuple[Sequence[object], ...] = (player.misses, player.drifts, player.failures)
            for at, things in enumerate(kinds):
                for thing in things[self._told[at] :]:
                    sys.stderr.write(f"{thing}\n")
                self._told[at] = len(things)
        sys.stderr.flush()


class Connection:
    """A connection of a client.

    Args:
        replay: What it is answered from.
        server: The name of the server in it.
        emit: Takes what the server sends.
    """

    def __init__(self, replay: Replay, server: str, emit: Emit) -> None:
        self._replay = replay
        self._played = PlayedConnection(replay.player, server, emit)

    @property
    def waiting(self) -> bool:
        """Whether the client may wait for an answer that it did not wait for when it was recorded."""
        return self._played.waiting

    def take(self, frame: Frame) -> None:
        """The client sends a message."""
        self._played.take(frame)
        self.report()

    def forget_miss(self) -> None:
        """Do not report the last miss."""
        self._replay.player.misses.pop()

    def give_up(self) -> None:
        """Refuse what has no answer."""
        self._played.give_up()
        self.report()

    def report(self) -> None:
        """Tell what was not told yet."""
        self._replay.report()


class Served:
    """A cassette that is served.

    Args:
        file: The cassette.
        server: Which of its servers.
        order: In what order to answer.
        patience: Seconds that a client may wait for an answer that it did not wait for when it was recorded.
    """

    def __init__(self, file: CassetteFile, server: str, order: Order, patience: float) -> None:
        self.patience = patience
        self._file = file
        self._server = server
        self._rules = Rules(order=order)
        self._redactor = Redactor(Redaction(), learns=True)
        self._most = max(one.connection for one in file if one.server == server)
        self._opened = 0
        self._replay = self._begin()

    def _begin(self) -> Replay:
        source = Source(path=self._file.path, mode="none", mode_reason="as it is served", way_out=_WAY_OUT)
        return Replay(Player(self._file, self._rules, self._redactor, source))

    def connect(self, emit: Emit) -> Connection:
        """Begin a session, which has all answers; where several connections were recorded, it is the next of them."""
        if self._opened == self._most:
            self._replay, self._opened = self._begin(), 0
        self._opened += 1
        return Connection(self._replay, self._server, emit)

    def connect_anew(self, emit: Emit) -> Connection:
        """The same with all answers, in any case."""
        return Connection(self._begin(), self._server, emit)


@contextmanager
def served(path: Path, server: str | None, order: Order, patience: float) -> Generator[Served, None, None]:
    """A cassette, checked, to be served.

    Args:
        path: The cassette.
        server: Which server; it may be left out if there is one.
        order: See `Served`.
        patience: See `Served`.
    """
    with opened(path) as file:
        yield Served(file, server_in(file, server), order, patience)


def frame_of(value: Any) -> Frame:
    """The message in a value of JSON.

    Raises:
        ValueError: It is none.
    """
    if not is_object(value):
        raise ValueError("a message has to be one JSON object")
    request_id, method, params = value.get("id"), value.get("method"), value.get("params")
    if request_id is not None and type(request_id) not in (str, int):
        raise ValueError("an id has to be a string or a whole number")
    if method is not None:
        if not isinstance(method, str) or not (params is None or is_object(params)):
            raise ValueError("a method has to be a string, and its params an object")
        return Frame(request_id, method, params)
    result, error = value.get("result"), value.get("error")
    if request_id is None or not is_object(result if error is None else error):
        raise ValueError("a message has a method, or an id with a result or an error")
    return Frame(request_id, None, None, result if error is None else None, error)


def message_of(frame: Frame) -> dict[str, Any]:
    """A message as it is on the wire."""
    told: dict[str, Any] = {"jsonrpc": "2.0"}
    if frame.id is not None or frame.method is None:
        told["id"] = frame.id
    if frame.method is not None:
        told["method"] = frame.method
        if frame.params is not None:
            told["params"] = frame.params
    elif frame.error is not None:
        told["error"] = frame.error
    else:
        told["result"] = frame.result or {}
    return told


def refusal(code: int, message: str) -> Frame:
    """The answer to what is no message."""
    return Frame(error={"code": code, "message": message})


class Pace:
    """How fast messages follow each other.

    A server of then took its time. Clients of the official TypeScript SDK lose progress that they read together with
    the answer (https://github.com/modelcontextprotocol/typescript-sdk/issues/2580).
    """

    def __init__(self) -> None:
        self._has_progressed = False

    def before(self, frame: Frame) -> float:
        """How many seconds to wait before a message is sent."""
        if frame.method is None:
            pause, self._has_progressed = _PAUSE if self._has_progressed else 0, False
            return pause
        self._has_progressed |= frame.method == "notifications/progress"
        return 0


def serve_stdio(cassette: Served) -> int:
    """Serve on standard input and output, a message to a line, until the client leaves; the value is the exit code.

    Nothing here waits for the event loop, so that Ctrl-C ends it although standard input is still open.
    """
    is_closed = False
    pace = Pace()

    def emit(sent: Frame | Closed) -> None:
        nonlocal is_closed
        if isinstance(sent, Closed):
            is_closed = True
        else:
            sleep(pace.before(sent))
            sys.stdout.buffer.write(encode(message_of(sent)) + b"\n")
            sys.stdout.buffer.flush()

    connection = cassette.connect(emit)
    impatience: Timer | None = None

    def give_up() -> None:
        with suppress(OSError, ValueError):  # the client has left
            connection.give_up()

    try:
        for text in sys.stdin.buffer:
            if text.isspace():
                continue
            try:
                value = decode(text)
            except ValueError:
                emit(refusal(PARSE_ERROR, "this is no JSON"))
                continue
            try:
                connection.take(frame_of(value))
            except ValueError as error:
                emit(refusal(INVALID_REQUEST, str(error)))
                continue
            if is_closed:
                break
            if impatience is not None:
                impatience.cancel()
            if connection.waiting:
                impatience = Timer(cassette.patience, give_up)
                impatience.daemon = True
                impatience.start()
    finally:
        if impatience is not None:
            impatience.cancel()
        connection.report()
    return 0
