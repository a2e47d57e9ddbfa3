"""`Recorder`: writes the messages of any number of connections into a journal, as they pass."""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from threading import RLock
from time import monotonic
from typing import Any, Final

from mcp_intercept._faults import Faults
from mcp_intercept.recording.assembly import Assembly, Body, Connection, place_of
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.journal import JOURNAL, JOURNAL_VERSION, Journal
from mcp_intercept.recording.redaction import Redactor
from mcp_intercept.recording.values import encode, is_object

_logger = logging.getLogger("mcp_intercept")

SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"
"""Where a notification of protocol 2026-07-28 has the id of the request that subscribed to it."""
STATE: Final = "recorded"
"""Stands for the `requestState` of a server, which is of no use to anybody else, and another one each time."""

# The recording, and the number in it, of what was sent last in this context.
_sent_last: ContextVar[tuple[int, int]] = ContextVar("mcp_intercept_sent_last")
_recordings = count(1)

_LINE: Final = b',"line":{'


class Recorder:
    """Writes down what passes; never raises, and counts what it could not write.

    Args:
        journal: Where to.
        redactor: What everything goes through before.
        mode: What the cassette is recorded for; kept for whoever recovers the journal.
        timing: Whether to note when the server answered.
    """

    def __init__(self, journal: Journal, redactor: Redactor, *, mode: str, timing: bool) -> None:
        self.journal = journal
        self.lost: int = 0
        """How many messages could not be written."""
        self.failure: Exception | None = None
        """Why the first of them was not."""
        self.count: int = 0
        """How many were."""
        self.assembly: Assembly = Assembly(journal.read)
        self._redactor = redactor
        self.was_used: bool = False
        """Whether any connection was opened."""
        self._timing = timing
        self._has_ended = False
        self._has_told = False
        self._faults = Faults(self)
        # Requests that could not be written; what is said to them later, is lost as well.
        self._unwritten: set[tuple[int, bool, str | int]] = set()
        self._lock = RLock()
        self._key = next(_recordings)
        self._numbers = count(1)
        self._connections = count(1)
        with suppress(OSError):  # the first message will tell
            journal.write(encode({"format": JOURNAL, "version": JOURNAL_VERSION, "mode": mode}) + b"\n")

    def end(self) -> None:
        """Write no more: what is said from now on, is said after the end."""
        with self._lock:
            self._has_ended = True

    def connect(self, server: str) -> int:
        """Begin a connection; the value is its number."""
        with self._lock:
            self.was_used = True
            number = next(self._connections)
            head = {"c": number, "server": server}
            with suppress(OSError):
                self.journal.write(encode(head) + b"\n")
            self.assembly.add(head, b"")
            return number

    def sent(self, number: int, frame: Frame) -> None:
        """The client sends a message."""
        self._take(self._sent, number, frame)

    def received(self, number: int, frame: Frame) -> None:
        """The client gets a message."""
        self._take(self._received, number, frame)

    def closed(self, number: int, how: str) -> None:
        """The connection has ended, and not by the client."""
        self._take(self._closed, number, how)

    def missed(self, error: Exception) -> None:
        """A message could not be told."""
        with self._lock:
            self.lost += 1
            self.failure = self.failure or error
            self._faults.report(f"write to {self.journal.path.name}", error, text=isinstance(error, OSError))

    def _take(self, take: Any, number: int, what: Any) -> None:
        with self._lock:
            if self._has_ended:
                self._tell_late()
                return
            try:
                take(number, what)
            except Exception as error:
                self.missed(error)
                if isinstance(what, Frame) and what.method is not None and what.id is not None:
                    self._unwritten.add((number, take == self._sent, what.id))

    def _tell_late(self) -> None:
        if not self._has_told:
            self._has_told = True
            _logger.warning(
                "a session goes on after the end of its use_cassette() block, and is not recorded in %s any longer; "
                "open and close sessions inside it",
                self.journal.path.name.removesuffix(".part"),
            )

    def _sent(self, number: int, frame: Frame) -> None:
        connection = self.assembly.connection(number)
        if connection.ended is not None:
            return  # it is told before it is sent, and is not
        if frame.method is None:
            self._answered(number, connection, frame)
            return
        if frame.method == "notifications/cancelled" and frame.params is not None:
            self._put({"c": number, "cancels": frame.params.get("requestId")}, None)
            return
        q = next(self._numbers)
        key, last = _sent_last.get((0, 0))
        _sent_last.set((self._key, q))
        head: dict[str, Any] = {"c": number, "q": q, "m": frame.method}
        if key == self._key:
            head["a"] = last
        params = frame.params
        if frame.id is not None:
            head["id"] = frame.id
            meta: Any = params.get("_meta") if params else None
            if is_object(meta) and "progressToken" in meta:
                head["token"] = meta["progressToken"]
        line: dict[str, Any] = {"request" if frame.id is not None else "notification": frame.method}
        if params:
            params = {name: params[name] for name in params if name not in ("_meta", "requestState")}
            responses: Any = params.get("inputResponses")
            if is_object(responses):
                params["inputResponses"] = dict(sorted(responses.items()))  # which came first, is chance
            params = self._redactor.params(frame.method, params)
            if params:
                line["params"] = params
        self._put(head, line)
        if self._timing and frame.id is not None and frame.id in connection.pending:
            connection.pending[frame.id].since = monotonic()

    def _answered(self, number: int, connection: Connection, frame: Frame) -> None:
        if frame.id not in connection.asked:
            self._drop(number, False, frame.id)
            return
        method = connection.asked[frame.id][0]
        if frame.error is None:
            line = {"client_result": self._redactor.result(method, frame.result or {})}
        else:
            line = {"client_error": self._redactor.error(frame.error)}
        self._put({"c": number, "answers": frame.id}, line)

    def _received(self, number: int, frame: Frame) -> None:
        connection = self.assembly.connection(number)
        if frame.method is None:
            self._responded(number, connection, frame)
            return
        params = frame.params or {}
        head: dict[str, Any] = {"c": number}
        if frame.id is not None:
            head |= {"id": frame.id, "m": frame.method}
            # Tokens and trace contexts are in it, and nothing that a client answers by.
            params = {name: params[name] for name in params if name != "_meta"}
            line: dict[str, Any] = {"server_request": frame.method}
        else:
            if frame.method == "notifications/cancelled":
                self._put({"c": number, "withdraws": params.get("requestId")}, None)
                return
            params = self._unlinked(head, frame.method, params)
            line = {"server_notification": frame.method}
        if params:
            line["params"] = self._redactor.params(frame.method, params)
        if self._timing and connection.last is not None:
            line["seconds"] = round(monotonic() - connection.last.since, 6)
        self._put(head, line)

    @staticmethod
    def _unlinked(head: dict[str, Any], method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The params without what ties them to a request, which is noted in `head`."""
        if method == "notifications/progress":
            head["token"] = params.get("progressToken")
            return {name: params[name] for name in params if name != "progressToken"}
        meta: Any = params.get("_meta")
        if is_object(meta) and SUBSCRIPTION_ID in meta:
            head["sub"] = meta[SUBSCRIPTION_ID]
            kept = {name: meta[name] for name in meta if name != SUBSCRIPTION_ID}
            params = {name: params[name] for name in params if name != "_meta"} | ({"_meta": kept} if kept else {})
        return params

    def _responded(self, number: int, connection: Connection, frame: Frame) -> None:
        request_id = frame.id
        if request_id not in connection.pending and isinstance(request_id, str) and request_id.isdecimal():
            request_id = int(request_id)  # as some servers send it back, and the SDK takes it
        if request_id is None or request_id not in connection.pending:
            self._drop(number, True, request_id)
            return
        sent = connection.pending[request_id]
        if frame.error is None:
            result = frame.result or {}
            if isinstance(result.get("requestState"), str):
                result = {**result, "requestState": STATE}
            line: dict[str, Any] = {"result": self._redactor.result(sent.method, result)}
        else:
            line = {"error": self._redactor.error(frame.error)}
        if self._timing:
            line["seconds"] = round(monotonic() - sent.since, 6)
        self._put({"c": number, "of": request_id}, line)

    def _drop(self, number: int, is_ours: bool, request_id: str | int | None) -> None:
        """Leave out a response to nobody: nobody has asked, or waits any longer, or that could not be written."""
        if request_id is not None and (number, is_ours, request_id) in self._unwritten:
            self._unwritten.discard((number, is_ours, request_id))
            self.lost += 1

    def _closed(self, number: int, how: str) -> None:
        self._put({"c": number, "closed": self._redactor.text(how)}, None)
        self.count -= 1  # it is no message

    def _put(self, head: dict[str, Any], line: dict[str, Any] | None) -> None:
        body: Body = b""
        if line is None:
            self.journal.write(encode(head) + b"\n")
        else:
            text = encode({**head, "line": line})
            begin = text.index(_LINE) + len(_LINE)  # what else is in it has no members
            body = place_of(self.journal.write(text + b"\n") + begin, len(text) - len(b"}}") - begin)
        self.assembly.add(head, body)
        self.count += 1
