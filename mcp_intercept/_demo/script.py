"""The demo: a conversation with the bundled server through an intercepted session, then what was seen of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from textwrap import indent
from types import FrameType

import anyio
from mcp import ClientSession
from rich.console import Console
from rich.text import Text

from mcp_intercept._connect import connect
from mcp_intercept._context import Exchange
from mcp_intercept._demo.timeline import plain, summary, timeline
from mcp_intercept._manager import MiddlewareManager
from mcp_intercept._sdk.transports import StdioServerParameters

SNIPPET = """\
from mcp_intercept import connect

async def watch(context, call_next):
    print(context.method)
    return await call_next(context)

async with connect(["python", "your_server.py"], watch) as session:
    await session.list_tools()"""
"""What a user may go on with, ready to be pasted."""

# Seconds for each answer: far more than any takes, so that nothing can make the demo wait for ever.
_TIMEOUT = 30.0


def run(loop: str) -> None:
    """Hold the conversation and print it.

    Args:
        loop: The event loop to do it on, `"asyncio"` or `"trio"`.
    """
    console = Console(highlight=False)
    # The spinner that needs no more than ASCII; it is seen on terminals only.
    with console.status("A traveller asks the demo server, over stdio ...", spinner="line"):
        exchanges = anyio.run(_converse, backend=loop)
    for part in (_header(exchanges, loop), timeline(exchanges), summary(exchanges), _next_steps()):
        console.print(part)
        console.print()


async def _converse() -> list[Exchange]:
    # The whole environment, unlike the few variables that the SDK hands on: the server must find what was found here.
    command = StdioServerParameters(
        command=sys.executable, args=[str(Path(__file__).with_name("server.py"))], env=dict(os.environ)
    )
    manager = MiddlewareManager()
    with manager.capture() as exchanges, _ctrl_c_wins():
        async with connect(command, manager, connection_id="demo", timeout=_TIMEOUT) as session:
            await _plan_a_trip(session)
    return exchanges


async def _plan_a_trip(session: ClientSession) -> None:
    """Some of everything: one thing after the other, some at once, one slow, one in vain."""
    await session.list_tools()
    await session.read_resource("memo://notes")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.call_tool, "find_rooms", {"city": "Oslo"})
        await session.call_tool("forecast", {"city": "Oslo"})
        await session.call_tool("find_trains", {"city": "Oslo"})
    await session.call_tool("book_room", {"hotel": "Hotel Fjord"})
    await session.get_prompt("packing_list", {"city": "Oslo"})


@contextmanager
def _ctrl_c_wins() -> Generator[None, None, None]:
    """Make whatever ends the block after Ctrl-C a plain `KeyboardInterrupt`.

    Trio wraps it in a group, and on SDK line 1 it is lost when an answer arrives while the transport closes.
    """
    loops_own = signal.getsignal(signal.SIGINT)
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        if callable(loops_own):  # pragma: no branch - who ignores Ctrl-C is not asked
            loops_own(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except BaseException:
        if pressed:
            raise KeyboardInterrupt from None  # noqa: ASYNC104 - whatever it was, Ctrl-C was its cause
        raise
    finally:
        signal.signal(signal.SIGINT, loops_own)


def _header(exchanges: Sequence[Exchange], loop: str) -> Text:
    # As on the wire: the lines of the SDK spell the fields of the model differently.
    handshake = exchanges[0].response.result.model_dump(by_alias=True)
    facts = f" over stdio, protocol {handshake['protocolVersion']}, mcp {version('mcp')}, {loop}"
    return Text.assemble((plain(handshake["serverInfo"]["name"]), "bold"), facts)


def _next_steps() -> Text:
    return Text(f"Nothing in this is special to the demo. Watch a server of your own:\n\n{indent(SNIPPET, '    ')}")
