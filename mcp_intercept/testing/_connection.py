"""One client of a scripted server's: what it asks is answered, and it can be asked and told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from itertools import count
from math import inf
from types import MappingProxyType
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_intercept._groups import raise_ungrouped
from mcp_intercept.recording.eras import meta_of
from mcp_intercept.testing._line import Frame, closed_error, make_error
from mcp_intercept.testing._peer import Peer
from mcp_intercept.testing._received import Inbox, Received
from mcp_intercept.testing._repertoire import Repertoire

# What is being answered in this context, by each server.
_answering: ContextVar[Mapping[Repertoire, tuple[Connection, Received]]] = ContextVar(
    "mcp_intercept_answering", default=MappingProxyType({})
)


def answered_by(repertoire: Repertoire) -> tuple[Connection, Received] | None:
    """The client that is being answered in this context, and what it asked; `None` outside of a script."""
    return _answering.get().get(repertoire)


class Connection(Peer):
    """One client of a server's.

    Args:
        read: What the client writes to.
        write: What the client reads from.
        name: What the server calls itself.
        inbox: Where the server keeps what arrives.
        repertoire: What the server answers.
    """

    def __init__(self, read: Any, write: Any, name: str, inbox: Inbox, repertoire: Repertoire) -> None:
        super().__init__(read, write)
        self.has_ended = False
        """Whether one of the two has hung up."""
        self._name = name
        self._inbox = inbox
        self._repertoire = repertoire
        self._in_progress: dict[Any, anyio.CancelScope] = {}
        self._questions: dict[Any, _Question] = {}
        self._ids = count(1)

    async def run(self) -> None:
        await super().run()
        self.end()

    def received(self, frame: Frame, metadata: Any, tasks: TaskGroup) -> None:
        if self.has_ended:
            return  # nobody is there
        if "method" not in frame:
            question = self._questions.pop(frame.get("id"), None)
            if question is not None:
                question.resolve(frame)
            return
        received = Received(frame, metadata)
        self._inbox.put(received)
        if received.kind == "request":
            scope = self._in_progress[frame["id"]] = anyio.CancelScope()
            tasks.start_soon(self._answer, received, scope)
            return
        if received.method == "notifications/cancelled":
            given_up = self._in_progress.get(received.params.get("requestId"))
            if given_up is not None:
                given_up.cancel()
        if self._repertoire.heeds(received):
            tasks.start_soon(self._reply, received)

    async def _answer(self, request: Received, scope: anyio.CancelScope) -> None:
        request_id = request.frame["id"]
        with scope:
            try:
                reply = await self._reply(request)
            finally:
                self._in_progress.pop(request_id, None)
            self._send({"id": request_id, **reply})

    async def _reply(self, received: Received) -> Frame:
        _answering.set({**_answering.get(), self._repertoire: (self, received)})
        return await self._repertoire.reply(received)

    def tell(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification, if the client still is there."""
        self._send({"method": method, **_with_params(params)})

    def report(self, request: Received, progress: float, total: float | None, message: str | None) -> None:
        """Report the progress of what is being answered, if the client wants to know."""
        token = meta_of(request.params).get("progressToken")
        if token is not None:
            said = {"progressToken": token, "progress": progress, "total": total, "message": message}
            self.tell("notifications/progress", {key: value for key, value in said.items() if value is not None})

    async def ask(self, method: str, params: Mapping[str, Any] | None) -> Frame:
        """Send a request, and wait for the result; an error is raised."""
        if self.has_ended:
            raise closed_error()
        request_id = f"{self._name}-{next(self._ids)}"
        question = self._questions[request_id] = _Question()
        self._send({"id": request_id, "method": method, **_with_params(params)})
        try:
            await question.answered.wait()
        except anyio.get_cancelled_exc_class():
            self.tell("notifications/cancelled", {"requestId": request_id, "reason": "given up"})
            raise
        finally:
            self._questions.pop(request_id, None)
        answer = question.answer
        if answer is None:
            raise closed_error()
        if "error" in answer:
            error = answer["error"]
            raise make_error(error["code"], error["message"], error.get("data"))
        result: Frame = answer["result"]
        return result

    def _send(self, frame: Frame) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.send_nowait({"jsonrpc": "2.0", **frame})

    def end(self) -> None:
        """Hang up."""
        self.has_ended = True
        self._write.close()
        for scope in self._in_progress.values():
            scope.cancel()
        for question in self._questions.values():
            question.resolve(None)


class _Question:
    """What a client is asked, until it answers."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.answer: Frame | None = None

    def resolve(self, answer: Frame | None) -> None:
        """It answered; `None` if it never will."""
        self.answer = answer
        self.answered.set()


def _with_params(params: Mapping[str, Any] | None) -> Frame:
    return {} if params is None else {"params": dict(params)}


@asynccontextmanager
async def opened(
    name: str, inbox: Inbox, repertoire: Repertoire
) -> AsyncGenerator[tuple[Connection, tuple[Any, Any]], None]:
    """A connection, served as long as it is open, and the streams of its client.

    An exception that leaves the body comes out as it is, not in the group that a task group makes of it.
    """
    body_error: BaseException | None = None
    # The client reads when it likes. What it writes, is read at once.
    write, client_read = anyio.create_memory_object_stream[Any](inf)
    client_write, read = anyio.create_memory_object_stream[Any](0)
    connection = Connection(read, write, name, inbox, repertoire)
    try:
        async with write, client_read, client_write, read, anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            try:
                yield connection, (client_read, client_write)
            except BaseException as error:
                body_error = error
                raise
            finally:
                connection.end()
                tasks.cancel_scope.cancel()
    except BaseException as error:  # noqa: ASYNC103 - it is always raised
        raise_ungrouped(error, body_error)
