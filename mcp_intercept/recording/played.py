"""`PlayedConnection`: a connection to a server that is not there, and answers as it did.

It gets and gives messages, and knows nothing of how they travel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from traceback import extract_tb
from typing import Any, Final

from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteError
from mcp_intercept.recording.assembly import LISTEN
from mcp_intercept.recording.eras import (
    QUESTION,
    initialize_result,
    is_question,
    meta_of,
    question,
    questions_in,
    says_version,
    with_answers,
    with_modern_members,
    without_modern_members,
)
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.misses import MISS_CODE, Miss
from mcp_intercept.recording.player import Player
from mcp_intercept.recording.recorder import SUBSCRIPTION_ID

METHOD_NOT_FOUND: Final = -32601


@dataclass(frozen=True, slots=True)
class Closed:
    """The server ends the connection."""

    how: str


Emit = Callable[["Frame | Closed"], None]
"""Takes what the server sends."""


class _Run:
    """An interaction that is being replayed."""

    __slots__ = ("awaited", "events", "id", "interaction", "token")

    def __init__(self, interaction: Interaction, request_id: str | int | None, token: Any) -> None:
        self.interaction = interaction
        self.id = request_id
        self.token = token
        self.events = iter(interaction.events)
        self.awaited: dict[str, Any] | None = None
        """The request of the server's that is to be answered before it goes on."""


def _where(error: Exception) -> str:
    """What has failed, and where; its text may show what is secret."""
    frame = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name} ({frame.filename}, line {frame.lineno})"


class PlayedConnection:
    """A connection to a server that is not there.

    Args:
        player: What was recorded.
        server: The name of the server.
        emit: Takes what the server sends.
        forward: Takes requests that were not recorded, instead of refusing them.
        asks: Whether the client can be asked anything. If not, it is taken to answer as it did.
    """

    def __init__(
        self,
        player: Player,
        server: str,
        emit: Emit,
        forward: Callable[[Frame], None] | None = None,
        *,
        asks: bool = True,
    ) -> None:
        self.server = server
        self._player = player
        self._emit = emit
        self._forward = forward
        self._asks = asks
        self._number = player.open(server)
        self._runs: dict[str | int | None, _Run] = {}
        self._asked: dict[str | int, _Run] = {}
        self._rounds: dict[str | int, tuple[_Run, dict[str, Any]]] = {}
        self._ids = count(1)
        self._suspended: dict[str, tuple[_Run, dict[str, Any]]] = {}
        # Which era of the protocol is spoken: that of `initialize`, or the one in which each request says its version.
        self._is_legacy = False
        self._is_modern = False
        self._requested = ""

    @property
    def waiting(self) -> bool:
        """Whether the client may wait for an answer that it did not wait for when it was recorded."""
        return any(run.awaited is None and run.interaction.method != LISTEN for run in self._runs.values())

    def give_up(self) -> None:
        """Refuse what has no answer."""
        with self._player.lock:
            for run in [run for run in self._runs.values() if run.awaited is None and run.interaction.method != LISTEN]:
                self._end(run)
                self._refuse(run.id, self._player.left_waiting(self.server, run.interaction))

    def take(self, frame: Frame) -> None:
        """The client sends a message."""
        with self._player.lock:
            if self._player.has_ended:
                self._take_late(frame)
                return
            try:
                if frame.method is None:
                    self._take_answer(frame)
                elif frame.id is None:
                    self._take_notification(frame.method, frame.params)
                else:
                    self._take_request(frame, frame.method, frame.id)
            except Exception as error:
                # Of the user's functions, or a file that is damaged; told now if it can be, and at the end.
                self._player.failures.append(error)
                if frame.method is not None and frame.id is not None:
                    said = str(error) if isinstance(error, CassetteError) else _where(error)
                    message = f"The cassette cannot answer {printable(frame.method)}: {said}"
                    self._emit(Frame(id=frame.id, error={"code": MISS_CODE, "message": message}))

    def _take_late(self, frame: Frame) -> None:
        if frame.method is not None and frame.id is not None:
            message = "The use_cassette() block has ended; open and close sessions inside it"
            self._emit(Frame(id=frame.id, error={"code": MISS_CODE, "message": message}))

    def _take_request(self, frame: Frame, method: str, request_id: str | int) -> None:
        player = self._player
        if method == "initialize":
            self._is_legacy = True
            self._requested = str((frame.params or {}).get("protocolVersion"))
        elif method != "server/discover" and says_version(frame.params):
            self._is_modern = True
        if self._resume(frame):
            return
        params = player.params(method, frame.params)
        place = player.find(self.server, self._number, method, params)
        if place is not None:
            run = _Run(player.load(place), request_id, meta_of(frame.params).get("progressToken"))
            self._runs[request_id] = run
            self._go_on(run)
        elif self._forward is not None:
            self._forward(frame)
        else:
            self._take_unknown(frame, method, params)

    def _resume(self, frame: Frame) -> bool:
        """Go on with a call that was answered with a question; the value is whether it was."""
        params = frame.params or {}
        suspended = self._suspended.pop(str(params.get("requestState")), None)
        if suspended is None or frame.id is None:
            return False
        run, event = suspended
        run.id = frame.id
        self._runs[frame.id] = run
        answers: dict[str, Any] = params.get("inputResponses") or {}
        self._player.differs(run.interaction, event, Frame(result=answers.get(QUESTION)), self.server)
        self._go_on(run)
        return True

    def _take_unknown(self, frame: Frame, method: str, params: dict[str, Any] | None) -> None:
        player = self._player
        if method == "server/discover" and self.server in player.servers:
            # A server of then knows nothing of it, and its clients go on with `initialize`.
            self._emit(Frame(id=frame.id, error={"code": METHOD_NOT_FOUND, "message": "Method not found"}))
            return
        if method == "initialize":
            result = player.handshake(self.server, self._requested)
            if result is not None:
                self._emit(Frame(id=frame.id, result=result))
                return
        if method == "ping" and self.server in player.servers:
            self._emit(Frame(id=frame.id, result={}))
            return
        self._refuse(frame.id, player.miss(self.server, method, params))

    def _refuse(self, request_id: str | int | None, miss: Miss) -> None:
        data = {"reason": miss.reason, "cassette": str(miss.source.path), "nearest": [near.n for near in miss.nearest]}
        self._emit(Frame(id=request_id, error={"code": MISS_CODE, "message": str(miss), "data": data}))

    def _take_notification(self, method: str, params: dict[str, Any] | None) -> None:
        if method == "notifications/cancelled":
            run = self._runs.get((params or {}).get("requestId", ""))
            if run is not None:
                # What was recorded below the cancellation follows it.
                self._end(run)
                self._go_on(run)
            return
        place = self._player.find(self.server, self._number, method, self._player.params(method, params))
        if place is not None:
            self._go_on(_Run(self._player.load(place), None, None))

    def _take_answer(self, frame: Frame) -> None:
        if frame.id in self._rounds:
            run, question = self._rounds.pop(frame.id)
            question["answers"][question["keys"].pop(frame.id)] = (
                frame.result if frame.error is None else {"error": frame.error}
            )
            if not question["keys"]:
                self._next_round(run, question["answers"])
            return
        run_asking = self._asked.pop(frame.id, None) if frame.id is not None else None
        if run_asking is None or run_asking.awaited is None:
            return
        event, run_asking.awaited = run_asking.awaited, None
        try:
            self._player.differs(run_asking.interaction, event, frame, self.server)
        except Exception as error:  # of a function of the user's; the server goes on all the same
            self._player.failures.append(error)
        self._go_on(run_asking)

    def _go_on(self, run: _Run) -> None:
        """Send what the server sent then, up to where it waited for the client."""
        for event in run.events:
            if "server_notification" in event:
                self._notify(run, event)
            elif "server_request" in event:
                if self._ask(run, event):
                    return
            elif "result" in event:
                if self._is_legacy and self._asks and is_question(event["result"]):
                    self._ask_all(run, event["result"])
                    return
                self._answer(run, event["result"])
            elif "error" in event:
                self._end(run)
                self._emit(Frame(id=run.id, error=event["error"]))
            elif "closed" in event:
                self._emit(Closed(event["closed"]))
                return
            else:
                return  # it was cancelled; until the client does so again

    def _end(self, run: _Run) -> None:
        self._runs.pop(run.id, None)

    def _answer(self, run: _Run, result: dict[str, Any]) -> None:
        self._end(run)
        if run.interaction.method == "initialize":
            result = initialize_result(self._requested, self.server, result, None, set())
        if self._is_legacy:
            result = without_modern_members(result)
        elif self._is_modern:
            result = with_modern_members(run.interaction.method, result)
        self._emit(Frame(id=run.id, result=result))

    def _notify(self, run: _Run, event: dict[str, Any]) -> None:
        method: str = event["server_notification"]
        params: dict[str, Any] | None = event.get("params")
        if method == "notifications/progress":
            if run.token is None:
                return  # this time the client has not asked for it
            params = {"progressToken": run.token, **(params or {})}
        elif run.interaction.method == LISTEN:
            params = dict(params or {})
            params["_meta"] = {**(params.get("_meta") or {}), SUBSCRIPTION_ID: run.id}
        self._emit(Frame(method=method, params=params))

    def _new_id(self) -> str:
        return f"mcp-intercept-{next(self._ids)}"

    def _ask(self, run: _Run, event: dict[str, Any]) -> bool:
        """Ask the client; the value is whether the server waited for the answer."""
        is_answered = "client_result" in event or "client_error" in event
        if not self._asks or (self._is_modern and not is_answered):
            return False
        request_id = self._new_id()
        if self._is_modern and run.id is not None:
            # A server may no longer send requests, and asks in its answer.
            self._suspended[request_id] = (run, event)
            self._answer(run, question(event["server_request"], event.get("params"), request_id))
            return True
        self._emit(Frame(id=request_id, method=event["server_request"], params=event.get("params")))
        if "withdrawn" in event:
            self._emit(Frame(method="notifications/cancelled", params={"requestId": request_id}))
        elif is_answered:
            self._asked[request_id] = run
            run.awaited = event
            return True
        return False

    def _ask_all(self, run: _Run, result: dict[str, Any]) -> None:
        """Ask the client, in requests, what a later protocol asks in the answer to its call."""
        questions = questions_in(result)
        ids = {self._new_id(): key for key in questions}
        question: dict[str, Any] = {"keys": ids, "answers": {}}
        for request_id, key in list(ids.items()):
            self._rounds[request_id] = (run, question)
            asked = questions[key]
            run.awaited = asked
            self._emit(Frame(id=request_id, method=asked["method"], params=asked.get("params")))

    def _next_round(self, run: _Run, answers: dict[str, Any]) -> None:
        run.awaited = None
        player, method = self._player, run.interaction.method
        params = player.params(method, with_answers(run.interaction.params, answers))
        place = player.find(self.server, self._number, method, params)
        if place is None:
            self._end(run)
            self._refuse(run.id, player.miss(self.server, method, params))
            return
        run.interaction = player.load(place)
        run.events = iter(run.interaction.events)
        self._go_on(run)
