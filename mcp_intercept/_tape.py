"""Between a session and its transport: what a cassette records, replays or compares, at the pair of streams.

Above: `Cassette`, which decides what is done. Below: the recorder and the player, which know messages only.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.lowlevel import checkpoint

from mcp_intercept._groups import leaves
from mcp_intercept._sdk.framing import frame_from, item_from
from mcp_intercept._wire import read_along
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.played import Closed, PlayedConnection
from mcp_intercept.recording.player import Player

if TYPE_CHECKING:
    from typing_extensions import Self

_INITIALIZE_ID = "mcp-intercept-initialize"


class Writer(Protocol):
    """What notes the messages of connections: a recorder, or what compares them with a cassette."""

    def connect(self, server: str) -> int:
        """Begin a connection; the value is its number."""
        ...

    def sent(self, number: int, frame: Frame) -> None:
        """The client sends a message."""
        ...

    def received(self, number: int, frame: Frame) -> None:
        """The client gets a message."""
        ...

    def closed(self, number: int, how: str) -> None:
        """The connection has ended, and not by the client."""
        ...

    def missed(self, error: Exception) -> None:
        """A message could not be told."""
        ...


class _Noting:
    """Tells a writer what passes on a connection."""

    def __init__(self, writer: Writer, server: str) -> None:
        self._writer = writer
        self._number = writer.connect(server)

    def sent(self, item: Any) -> None:
        self._tell(self._writer.sent, item)

    def received(self, item: Any) -> None:
        self._tell(self._writer.received, item)

    def _tell(self, tell: Callable[[int, Frame], None], item: Any) -> None:
        try:
            frame = frame_from(item)
            if frame is not None:
                tell(self._number, frame)
        except Exception as error:
            self._writer.missed(error)

    def ended(self) -> None:
        self._writer.closed(self._number, "end of stream")

    def failed(self, error: BaseException) -> None:
        self._writer.closed(self._number, type(leaves(error)[0]).__name__)


@asynccontextmanager
async def noted(
    transport: AbstractAsyncContextManager[Any], writer: Writer, server: str
) -> AsyncGenerator[tuple[Any, ...], None]:
    """A transport, opened, whose messages a writer is told of."""
    tap = _Noting(writer, server)
    left: BaseException | None = None
    try:
        async with transport as streams:
            try:
                yield (*read_along(tap, streams[0], streams[1]), *streams[2:])
            except BaseException as error:
                left = error
                raise
    except Exception as error:
        # A transport that fails cancels whoever uses it, and then says why.
        if left is None or not (isinstance(left, Exception) or error is left):
            tap.failed(error)
        raise


# Wakes up who reads, to look at the time.
_NOTHING: Any = object()


class _PlayedRead:
    """The stream that a session reads from while there is no server."""

    def __init__(self, stream: Any, connection: PlayedConnection, patience: float) -> None:
        self._stream = stream
        self._connection = connection
        self._patience = patience

    async def receive(self) -> Any:
        while True:
            if not self._connection.waiting:
                item = await self._stream.receive()
            else:
                item = _NOTHING
                with anyio.move_on_after(self._patience) as scope:
                    item = await self._stream.receive()
                if scope.cancelled_caught:
                    self._connection.give_up()
            if item is not _NOTHING:
                return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class _PlayedWrite:
    """The stream that a session writes to while there is no server."""

    def __init__(self, take: Callable[[Frame, Any], None]) -> None:
        self._take = take
        self._is_closed = False

    async def send(self, item: Any) -> None:
        await checkpoint()
        self.send_nowait(item)

    def send_nowait(self, item: Any) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        frame = frame_from(item)
        if frame is not None:
            self._take(frame, item)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._is_closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class _Outbox:
    """Where what a server sends waits for the session to read it."""

    def __init__(self) -> None:
        self._send, self.stream = anyio.create_memory_object_stream[Any](math.inf)

    def put(self, item: Any) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the session has left, or the server
            self._send.send_nowait(item)

    def emit(self, sent: Frame | Closed) -> None:
        if isinstance(sent, Closed):
            self._send.close()
        else:
            self.put(item_from(sent))

    def close(self) -> None:
        self._send.close()
        self.stream.close()


@asynccontextmanager
async def played(player: Player, server: str, patience: float) -> AsyncGenerator[tuple[Any, Any], None]:
    """The streams of a connection to a server that is not there."""
    outbox = _Outbox()
    connection = PlayedConnection(player, server, outbox.emit)

    def take(frame: Frame, item: Any) -> None:
        connection.take(frame)
        if connection.waiting:
            outbox.put(_NOTHING)

    try:
        yield _PlayedRead(outbox.stream, connection, patience), _PlayedWrite(take)
    finally:
        outbox.close()


class _Continued:
    """A connection of which the cassette answers what it knows, and the server, once it is needed, the rest."""

    def __init__(
        self, player: Player, writer: Writer, server: str, transport: AbstractAsyncContextManager[Any]
    ) -> None:
        self.outbox = _Outbox()
        self.played = PlayedConnection(player, server, self.outbox.emit, self._forward)
        self._noting = _Noting(writer, server)
        self._transport = transport
        self._to_server, self._from_client = anyio.create_memory_object_stream[Any](math.inf)
        self._handshake: Any = None
        self._live_requests: set[Any] = set()
        self._live_questions: set[Any] = set()
        self._item: Any = None
        self._is_up = False
        self._is_new = False

    def take(self, frame: Frame, item: Any) -> None:
        """The client sends a message."""
        if frame.method == "initialize":
            self._handshake = item
        self._item = item
        about = (frame.params or {}).get("requestId") if frame.method == "notifications/cancelled" else None
        if frame.method is None and frame.id in self._live_questions:
            self._live_questions.discard(frame.id)
            self._send(item)
        elif about is not None and about in self._live_requests:
            self._send(item)
        else:
            self.played.take(frame)
            if self.played.waiting:
                self.outbox.put(_NOTHING)
            if self._is_up and _is_notification(frame):
                if self._is_new:
                    self._send(item)
                else:
                    self._to_server.send_nowait(item)

    def _forward(self, frame: Frame) -> None:
        if frame.method == "initialize":
            self._handshake = None  # it is on its way to the server itself
            self._is_new = True
        self._is_up = True
        self._live_requests.add(frame.id)
        self._send(self._item)

    def _send(self, item: Any) -> None:
        self._noting.sent(item)
        self._to_server.send_nowait(item)

    async def run(self) -> None:
        """Open the transport as soon as the server is needed, and pass on what it is asked and says."""
        with self._from_client:
            try:
                first = await self._from_client.receive()
            except anyio.EndOfStream:
                return
            async with self._transport as (read, write, *_):
                refusal = await self._initialize(read, write)
                if refusal is not None:
                    await self._refuse(first, refusal)
                    return
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._receive, read)
                    await write.send(first)
                    async for item in self._from_client:
                        await write.send(item)
                    tasks.cancel_scope.cancel()

    async def _initialize(self, read: Any, write: Any) -> Frame | Closed | None:
        """Begin a session with the server as the client did with the cassette; the value is why it will not."""
        frame = None if self._handshake is None else frame_from(self._handshake)
        if frame is None:
            return None
        await write.send(item_from(frame._replace(id=_INITIALIZE_ID)))
        answer: Frame | None = None
        with suppress(anyio.EndOfStream):
            while answer is None or answer.id != _INITIALIZE_ID:
                answer = frame_from(await read.receive())
        if answer is None or answer.id != _INITIALIZE_ID:
            return Closed("end of stream")
        if answer.error is not None:
            return answer
        await write.send(item_from(Frame(method="notifications/initialized")))
        return None

    async def _refuse(self, first: Any, refusal: Frame | Closed) -> None:
        """Answer what needs the server as the server has answered."""
        if isinstance(refusal, Closed):
            self._noting.ended()
            self.outbox.close()
            return
        items = [first]
        while items:
            asked = frame_from(items.pop())
            if asked is not None and asked.method is not None and asked.id is not None:
                answer = item_from(refusal._replace(id=asked.id))
                self._noting.received(answer)
                self.outbox.put(answer)
            with suppress(anyio.EndOfStream):
                items.append(await self._from_client.receive())

    async def _receive(self, read: Any) -> None:
        async for item in read:
            frame = frame_from(item)
            if frame is not None:
                self._noting.received(item)
                if frame.method is None:
                    self._live_requests.discard(frame.id)
                elif frame.id is not None:
                    self._live_questions.add(frame.id)
            self.outbox.put(item)
        self._noting.ended()
        self.outbox.close()

    def close(self) -> None:
        """The client leaves."""
        self._to_server.close()
        self.outbox.close()


def _is_notification(frame: Frame) -> bool:
    return frame.method is not None and frame.id is None


@asynccontextmanager
async def continued(
    player: Player, writer: Writer, server: str, transport: AbstractAsyncContextManager[Any], patience: float
) -> AsyncGenerator[tuple[Any, Any], None]:
    """The streams of a connection that begins as it was recorded, and goes on with the server where it is new."""
    connection = _Continued(player, writer, server, transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        try:
            yield _PlayedRead(connection.outbox.stream, connection.played, patience), _PlayedWrite(connection.take)
        finally:
            connection.close()
