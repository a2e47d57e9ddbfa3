"""What the tests of the frameworks share about cassettes."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from pathlib import Path

import pytest

from mcp_intercept import use_cassette
from tests.frameworks.seen import Server

# Nobody is there.
NOWHERE = Server(["/nowhere/to/be/found"], "")
NOWHERE_ON_HTTP = Server([], "http://127.0.0.1:9/mcp")


async def assert_replays(answer_of: Callable[[Server], Awaitable[str] | str], server: Server, folder: Path) -> None:
    """What an agent and its server say is recorded, replayed without the server, and recorded alike a second time."""

    async def answer(of: Server) -> str:
        answered = answer_of(of)
        return await answered if isawaitable(answered) else answered

    path = folder / "agent.mcp.jsonl"
    with use_cassette(path, mode="once", everywhere=True) as cassette:
        assert cassette.is_recording
        assert await answer(server) == "3"
    written = path.read_bytes()
    with use_cassette(path, mode="none", everywhere=True, unused="fail"):
        assert await answer(NOWHERE_ON_HTTP if server.url else NOWHERE) == "3"
    with use_cassette(path, mode="rewrite", everywhere=True):
        assert await answer(server) == "3"
    assert path.read_bytes() == written
    # The agent may do what it likes with a miss; the block fails all the same.
    path.write_bytes(written.replace(b'"b":2', b'"b":3'))
    changed = None
    try:
        with use_cassette(path, mode="none", everywhere=True) as changed:
            await answer(NOWHERE_ON_HTTP if server.url else NOWHERE)
    except Exception as error:
        told = [str(error), *getattr(error, "__notes__", [])]
    else:
        pytest.fail("the miss was swallowed")
    assert any("No recorded answer to tools/call add" in text for text in told) or sys.version_info < (3, 11)
    assert changed is not None
    [miss] = changed.misses
    assert (miss.reason, miss.nearest[0].differences[0].pointer) == ("arguments differ", "/arguments/b")
