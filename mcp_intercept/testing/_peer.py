"""`Peer`: the far end of the pair of streams that a client reads and writes."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_intercept._sdk import line
from mcp_intercept.testing._line import Frame, dump, session_message


class Peer:
    """Reads what a client sends, and writes to it. What is said, is up to the subclass.

    Args:
        read: What the client writes to.
        write: What the client reads from.
    """

    def __init__(self, read: Any, write: Any) -> None:
        self._read = read
        self._write = write

    async def run(self) -> None:
        """Read until the client hangs up, and end then what was started for its messages."""
        async with anyio.create_task_group() as tasks:
            async for message in self._read:
                self.received(dump(line.frame_of(message)), message.metadata, tasks)
            tasks.cancel_scope.cancel()

    def received(self, frame: Frame, metadata: Any, tasks: TaskGroup) -> None:
        """A message arrived.

        Args:
            frame: The message.
            metadata: What the client told its transport with it.
            tasks: Where to do what takes time.
        """
        raise NotImplementedError  # what it means is up to the subclass

    def send_nowait(self, frame: Frame) -> None:
        """Send a message at once; only over streams that hold as many as there are."""
        self._write.send_nowait(session_message(frame))
