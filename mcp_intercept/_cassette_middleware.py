"""`CassetteMiddleware`: records and replays the calls of a session whose streams cannot be had."""

from __future__ import annotations

from itertools import count
from typing import Any

import anyio
from pydantic import BaseModel

from mcp_intercept._chain import NextFunctionT
from mcp_intercept._context import MiddlewareContext, is_closed
from mcp_intercept._middleware import Middleware
from mcp_intercept._sdk import line, types
from mcp_intercept._tape import Writer
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.played import Closed, PlayedConnection
from mcp_intercept.recording.player import Player
from mcp_intercept.recording.values import is_object


class CassetteMiddleware(Middleware):
    """Records or replays what passes a chain, into or from the file of a cassette. `Cassette.middleware()` makes one.

    Args:
        player: Answers from the cassette; `None` where everything is to pass.
        writer: Gets what passes; `None` where nothing is recorded.
        server: The name of the server in the cassette.
        patience: Seconds that a caller may wait for an answer that it did not wait for when it was recorded.
    """

    def __init__(self, player: Player | None, writer: Writer | None, server: str, patience: float) -> None:
        self._writer = writer
        self._patience = patience
        self._number = 0 if writer is None else writer.connect(server)
        self._ids = count(1)
        # The ids that were given to the calls of the chain, for progress that reports on them.
        self._calls: dict[str, Any] = {}
        self._waiting: dict[Any, _Played] = {}
        self._connection: PlayedConnection | None = None
        if player is not None:
            forward = None if writer is None else self._forward
            self._connection = PlayedConnection(player, server, self._emit, forward, asks=False)

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Record or replay a message of either direction."""
        if context.direction == "incoming":
            return await self._incoming(context, call_next)
        params = self._wire(context.params)
        if context.kind == "notification":
            if self._connection is not None:
                self._connection.take(Frame(method=context.method, params=params))
            else:
                self._note("sent", Frame(method=context.method, params=params))
            return await call_next(context) if self._writer is not None or self._connection is None else None
        request_id = next(self._ids)
        if context.options.progress_callback is not None:
            params = params or {}
            params["_meta"] = {**(params.get("_meta") or {}), "progressToken": request_id}
        frame = Frame(request_id, context.method, params)
        if self._connection is None:
            return await self._recorded(frame, context, call_next)
        played = self._waiting[request_id] = _Played()
        try:
            self._connection.take(frame)
            if played.is_live:
                return await self._recorded(frame, context, call_next)
            return await self._replayed(self._connection, frame, played, context)
        finally:
            del self._waiting[request_id]

    async def _replayed(
        self, connection: PlayedConnection, frame: Frame, played: _Played, context: MiddlewareContext[Any]
    ) -> Any:
        report = context.options.progress_callback
        while True:
            while report is not None and played.progress:
                params = played.progress.pop(0)
                await report(params["progress"], params.get("total"), params.get("message"))
            if played.answer is not None:
                break
            await self._wait(connection, frame)
        answer = played.answer
        if isinstance(answer, Closed):
            raise line.to_error(types.ErrorData(code=-32000, message="Connection closed"))
        if answer.error is not None:
            raise line.to_error(types.ErrorData.model_validate(answer.error))
        return answer.result

    async def _wait(self, connection: PlayedConnection, frame: Frame) -> None:
        """Nobody has answered then, so nobody does now, but after a while we."""
        try:
            await anyio.sleep(self._patience)
        except BaseException:
            connection.take(Frame(method="notifications/cancelled", params={"requestId": frame.id}))
            raise
        connection.give_up()

    async def _recorded(self, frame: Frame, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        request_id = frame.id
        self._note("sent", frame)
        self._calls[context.id] = request_id
        try:
            result = await call_next(context)
        except line.Error as error:
            if is_closed(error):
                self._closed(error)
            else:
                wire = error.error.model_dump(mode="json", exclude_none=True)
                self._note("received", Frame(request_id, error=wire))
            raise
        except Exception as error:
            self._closed(error)
            raise
        except BaseException:
            self._note("sent", Frame(method="notifications/cancelled", params={"requestId": request_id}))
            raise
        finally:
            self._calls.pop(context.id, None)
        self._note_result("received", request_id, result)
        return result

    async def _incoming(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        params = self._wire(context.params)
        if context.kind == "notification":
            related = context.related
            if context.method == "notifications/progress" and related is not None and params is not None:
                params["progressToken"] = self._calls.get(related.id)
            self._note("received", Frame(method=context.method, params=params))
            return await call_next(context)
        request_id = f"asked-{next(self._ids)}"
        self._note("received", Frame(request_id, context.method, params))
        try:
            result = await call_next(context)
        except line.Error as error:
            wire = error.error.model_dump(mode="json", exclude_none=True)
            self._note("sent", Frame(request_id, error=wire))
            raise
        self._note_result("sent", request_id, result)
        return result

    def _forward(self, frame: Frame) -> None:
        self._waiting[frame.id].is_live = True

    def _emit(self, sent: Frame | Closed) -> None:
        if isinstance(sent, Closed):
            for played in self._waiting.values():
                played.answer = played.answer or sent
        elif sent.method is None:
            # Who has given up meanwhile is told nothing.
            self._waiting.get(sent.id, _Played()).answer = sent
        elif sent.method == "notifications/progress" and sent.params is not None:
            played = self._waiting.get(sent.params.get("progressToken"), _Played())
            played.progress.append(sent.params)

    def _wire(self, value: Any) -> dict[str, Any] | None:
        """Params or a result as they are on the wire."""
        try:
            if isinstance(value, BaseModel):
                dumped: dict[str, Any] = value.model_dump(by_alias=True, mode="json", exclude_none=True)
                return dumped
        except Exception as error:
            # Of something that a middleware has put in; it fails when it is sent, if it is.
            if self._writer is not None:
                self._writer.missed(error)
        return {**value} if is_object(value) else None

    def _note_result(self, what: str, request_id: Any, result: Any) -> None:
        wire = self._wire(result)
        if wire is not None:
            self._note(what, Frame(request_id, result=wire))

    def _note(self, what: str, frame: Frame) -> None:
        if self._writer is not None:
            (self._writer.sent if what == "sent" else self._writer.received)(self._number, frame)

    def _closed(self, error: Exception) -> None:
        if self._writer is not None:
            self._writer.closed(self._number, type(error).__name__)


class _Played:
    """A call that is being replayed."""

    __slots__ = ("answer", "is_live", "progress")

    def __init__(self) -> None:
        self.answer: Frame | Closed | None = None
        self.progress: list[dict[str, Any]] = []
        self.is_live = False
