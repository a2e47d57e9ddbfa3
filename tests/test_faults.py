"""A server that misbehaves: with layers round the session it ends as it does without, in class, code and aftermath."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

from mcp_intercept import connect
from tests.misbehaving import DEAFENING, MODES, SILENT
from tests.test_fidelity import THREE, WRAPPINGS, outcome, parts, seconds, through
from tests.wire import LINE_1

pytestmark = pytest.mark.anyio

PROGRAM = str(Path(__file__).with_name("misbehaving.py"))


def parameters(mode: str) -> StdioServerParameters:
    # Isolated and without site-packages: it starts in a fraction of the time.
    return StdioServerParameters(command=sys.executable, args=["-I", "-S", PROGRAM, mode])


def kinds(error: BaseException) -> Any:
    """The class of an error, and those of the errors inside."""
    return type(error), [kinds(part) for part in parts(error)]


async def talk(wrapping: str | None, mode: str) -> dict[str, Any]:
    """Shake hands, call the tool that misbehaves, then one that does not, and leave."""
    handled: list[Any] = []
    told: dict[str, Any] = {"handled": handled, "left with": None}

    async def handle(message: Any) -> None:
        handled.append(type(message).__name__)

    async def call(name: str, session: Any) -> Any:
        hopeless = mode in DEAFENING or (mode in SILENT and name == "bad")
        return await session.call_tool(name, {}, seconds(0.1 if hopeless else 10))

    try:
        with anyio.fail_after(30):
            async with stdio_client(parameters(mode)) as (read, write):
                inner = ClientSession(read, write, message_handler=handle)
                to_enter, session = WRAPPINGS[wrapping](inner) if wrapping else (inner, inner)
                async with to_enter:
                    told["initialize"] = await outcome(lambda session: session.initialize(), session)
                    for name in ("bad", "good"):
                        told[name] = await outcome(partial(call, name), session)
                        # Let everybody deal with what has arrived.
                        for _ in range(20):
                            await checkpoint()
    except BaseException as error:
        told["left with"] = kinds(error)
    return told


@pytest.mark.parametrize("mode", MODES)
async def test_a_misbehaving_server_does_to_a_wrapped_session_what_it_does_to_a_bare_one(mode: str) -> None:
    told: dict[str | None, Any] = {}

    async def note(wrapping: str | None) -> None:
        told[wrapping] = await talk(wrapping, mode)

    # At once, as what takes time here is waiting for processes.
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(note, None)
        tasks.start_soon(note, THREE)
    assert told[THREE] == told[None]


ENDINGS = ["an_error", "dies_during_the_call", "a_result_of_the_wrong_shape", "says_nothing"]


# On line 2 the transport fails as well, when it is left.
@pytest.mark.parametrize("mode", ENDINGS if LINE_1 else [*ENDINGS, "no_utf_8"])
async def test_connect_lets_the_same_errors_out_of_its_body(mode: str) -> None:
    """What leaves the body of `connect()` is the error itself, where a bare session's comes in groups."""
    bare = (await talk(None, mode))["bad"]
    caught: Any = None
    with anyio.fail_after(30):
        try:
            async with connect(parameters(mode), through, timeout=0.1 if mode in SILENT else 10) as session:
                await session.call_tool("bad", {})
        except Exception as error:
            caught = error
    assert type(caught) is bare[0]
    assert bare[1] is None or (caught.error.code, caught.error.data) == (bare[1][0], bare[1][2])


def test_there_are_enough_ways_to_misbehave() -> None:
    assert len(MODES) >= 16
    assert set(MODES) >= SILENT
