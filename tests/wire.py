"""A server at the level of the wire: it logs every frame that arrives, and answers as the test says.

For what reaches the wire, and for answers that no sound server gives. What a real server does is tested with one:
see `tests.server`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp.types as types
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from mcp.shared.memory import create_client_server_memory_streams

from mcp_intercept.testing._line import Frame as Frame  # for those who import it from here
from mcp_intercept.testing._line import session_message
from mcp_intercept.testing._peer import Peer

Answer = Callable[[Frame], Awaitable["Frame | None"]]
"""`async (request frame) -> result`; `None` means no answer at all."""

LINE_1 = isinstance(types.ClientRequest, type)

RESULTS: Mapping[str, Frame] = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "serverInfo": {"name": "wire", "version": "1"},
    },
    "server/discover": {
        "supportedVersions": ["2026-07-28"],
        "capabilities": {},
        "ttlMs": 0,
        "cacheScope": "public",
        "resultType": "complete",
    },
    "tools/call": {"content": [{"type": "text", "text": "done"}]},
    "tools/list": {"tools": [{"name": "tool", "inputSchema": {"type": "object"}}]},
    "resources/list": {"resources": []},
    "resources/templates/list": {"resourceTemplates": []},
    "resources/read": {"contents": [{"uri": "memo://1", "text": "memo"}]},
    "prompts/list": {"prompts": []},
    "prompts/get": {"messages": []},
    "completion/complete": {"completion": {"values": []}},
}
"""What is answered where a test says nothing; an empty result for every other method."""


class WireServer(Peer):
    """The far end of a pair of streams.

    Attributes:
        frames: Every frame the client sent, in order.
        metadata: What the client told its transport with each frame (`SessionMessage.metadata`).
        answers: What to answer, by method; see `Answer`.
    """

    def __init__(self, read: Any, write: Any) -> None:
        super().__init__(read, write)
        self.frames: list[Frame] = []
        self.metadata: list[Any] = []
        self.answers: dict[str, Answer] = {}
        self._arrived = anyio.Event()

    def received(self, frame: Frame, metadata: Any, tasks: TaskGroup) -> None:
        self.frames.append(frame)
        self.metadata.append(metadata)
        self._arrived.set()
        self._arrived = anyio.Event()
        if "id" in frame and "method" in frame:
            tasks.start_soon(self._answer, frame)

    async def _answer(self, frame: Frame) -> None:
        method = frame["method"]
        if method in self.answers:
            result = await self.answers[method](frame)
        else:
            result = dict(RESULTS.get(method, {}))
        if result is not None:
            await self.reply(frame["id"], result)

    async def reply(self, request_id: Any, result: Frame) -> None:
        await self.send({"jsonrpc": "2.0", "id": request_id, "result": result})

    async def refuse(self, request_id: Any, code: int, message: str) -> None:
        await self.send({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}})

    async def notify(self, method: str, params: Frame) -> None:
        await self.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def send(self, frame: Frame) -> None:
        await self._write.send(session_message(frame))

    async def close(self) -> None:
        """Hang up: the client reads the end of its stream."""
        await self._write.aclose()

    async def wait_for(self, method: str, count: int = 1) -> Frame:
        """The frame of the `count`-th message of `method`, once it has arrived."""
        with anyio.fail_after(30):
            while len(self.sent(method)) < count:
                await self._arrived.wait()
        return self.sent(method)[count - 1]

    def sent(self, method: str) -> list[Frame]:
        """The frames of one method, in order."""
        return [frame for frame in self.frames if frame.get("method") == method]

    async def ask(self, method: str, params: Frame | None = None, request_id: int | str = "q") -> Frame:
        """What the client answers to a request."""
        asked = {"jsonrpc": "2.0", "id": request_id, "method": method}
        await self.send(asked if params is None else {**asked, "params": params})
        return await self.answer_to(request_id)

    async def answer_to(self, request_id: int | str) -> Frame:
        """The frame that answers a request of this server's, once it has arrived."""
        with anyio.fail_after(30):
            while not (found := self.answered(request_id)):
                await self._arrived.wait()
        return found[0]

    def answered(self, request_id: int | str) -> list[Frame]:
        """The frames that answer a request of this server's; there should be one at most."""
        return [frame for frame in self.frames if "method" not in frame and frame.get("id") == request_id]

    @property
    def methods(self) -> list[str]:
        """The methods of all frames that have one, in order."""
        return [frame["method"] for frame in self.frames if "method" in frame]


async def never(frame: Frame) -> None:
    """The answer that never comes."""


@asynccontextmanager
async def wire() -> AsyncGenerator[tuple[tuple[Any, Any], WireServer], None]:
    """A pair of streams for a client, and the server at their other end."""
    async with create_client_server_memory_streams() as (client, (server_read, server_write)):
        server = WireServer(server_read, server_write)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run)
            yield client, server
            await checkpoint()
            tasks.cancel_scope.cancel()
