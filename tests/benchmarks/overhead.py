"""What the chain costs, beside the bare SDK and mcp-use, in one run.

    python -m tests.benchmarks.overhead [--quick]

Prints CPU time per call, the best of interleaved batches, and the ratio to the bare SDK. mcp-use is measured where it
is installed (it needs SDK line 1): `pip install "mcp-use==1.7.0" "mcp<2"`.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from time import process_time
from typing import Any

import anyio
import mcp.types as types
from mcp import ClientSession
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage

from mcp_intercept import CallbackClientSession, Middleware, MiddlewareManager, connect, intercept
from tests.server import make_server

RESULT = types.CallToolResult(content=[])
Once = Callable[[], Awaitable[Any]]


class InstantSession(ClientSession):
    """Answers at once, so that what is left is what the wrapping costs."""

    async def send_request(self, *args: Any, **kwargs: Any) -> Any:
        return RESULT


async def pass_through(context: Any, call_next: Any) -> Any:
    return await call_next(context)


class Hooked(Middleware):
    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        return await call_next(context)


class Elsewhere(Middleware):
    async def on_list_tools(self, context: Any, call_next: Any) -> Any:
        return await call_next(context)


async def best(variants: Mapping[str, Once], calls: int, batches: int) -> dict[str, float]:
    """CPU seconds per call of each variant: the best of its batches, which are run in turn."""
    figures = dict.fromkeys(variants, float("inf"))
    for _ in range(batches):
        for name, once in variants.items():
            gc.collect()
            gc.disable()
            started = process_time()
            for _ in range(calls):
                await once()
            figures[name] = min(figures[name], (process_time() - started) / calls)
            gc.enable()
    return figures


def show(title: str, figures: Mapping[str, float], baseline: str) -> None:
    print(f"\n{title}")
    base = figures[baseline]
    for name, figure in figures.items():
        added = (figure - base) * 1e6
        print(f"  {name:44} {figure * 1e6:10.2f} us   {added:+9.2f} us   x{figure / base:.3f}")


def mcp_use_session(session: ClientSession, layers: int) -> Any:
    """The same wrapping by mcp-use, or `None` where it is not installed."""
    if importlib.util.find_spec("mcp_use") is None:
        return None
    os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"
    from mcp_use.client.middleware import CallbackClientSession as Theirs
    from mcp_use.client.middleware import Middleware as TheirMiddleware
    from mcp_use.client.middleware import MiddlewareManager as TheirManager

    class TheirPassThrough(TheirMiddleware):  # type: ignore[misc]
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            return await call_next(context)

    manager = TheirManager()
    for _ in range(layers):
        manager.add_middleware(TheirPassThrough())
    return Theirs(session, "bench", manager)


async def instant(calls: int, batches: int) -> None:
    read: Any
    write: Any
    send, read = anyio.create_memory_object_stream[Any](1)
    write, receive = anyio.create_memory_object_stream[Any](1)
    with send, read, write, receive:
        async with InstantSession(read, write) as bare:
            request: Any = types.CallToolRequest(params=types.CallToolRequestParams(name="t", arguments={}))
            if isinstance(types.ClientRequest, type):
                request = types.ClientRequest(request)

            def sender(session: Any) -> Once:
                return lambda: session.send_request(request, types.CallToolResult)

            def layers(count: int, layer: Any = pass_through) -> ClientSession:
                return intercept(bare, *[layer] * count)

            variants = {
                "bare": sender(bare),
                "wrapped, no middleware": sender(intercept(bare)),
                "wrapped, 10 middlewares without a hook": sender(intercept(bare, *[Elsewhere()] * 10)),
                "wrapped, 1 layer": sender(layers(1)),
                "wrapped, 1 layer (hook)": sender(layers(1, Hooked())),
                "wrapped, 11 layers": sender(layers(11)),
                "wrapped, 100 layers": sender(layers(100)),
            }
            figures = await best(variants, calls, batches)
            show("A session that answers at once: send_request", figures, "bare")
            per_layer = (figures["wrapped, 11 layers"] - figures["wrapped, 1 layer"]) / 10
            print(f"  per layer: {per_layer * 1e6:.2f} us")

            variants = {"bare": lambda: bare.call_tool("t", {})}
            for count in (0, 1, 11):
                ours = intercept(bare, *[Hooked()] * count)
                variants[f"wrapped, {count} layers"] = partial(ours.call_tool, "t", {})
                theirs = mcp_use_session(bare, count)
                if theirs is not None:
                    variants[f"mcp-use, {count} layers"] = partial(theirs.call_tool, "t", {})
            bare._tool_output_schemas["t"] = None  # else the SDK asks for it
            show("A session that answers at once: call_tool", await best(variants, calls, batches), "bare")


def memory_server() -> Any:
    server = make_server()
    return getattr(server, "_mcp_server", None) or server._lowlevel_server


async def in_memory(calls: int, batches: int) -> None:
    server = memory_server()
    async with create_client_server_memory_streams() as (client, (server_read, server_write)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, server_read, server_write, server.create_initialization_options())
            async with ClientSession(*client) as bare:
                await bare.initialize()
                wrapped = CallbackClientSession(bare, "bench", MiddlewareManager([pass_through] * 3))
                await wrapped.call_tool("echo", {"text": "x"})
                variants = {
                    "bare": lambda: bare.call_tool("echo", {"text": "x"}),
                    "wrapped, 3 layers": lambda: wrapped.call_tool("echo", {"text": "x"}),
                }
                show("The in-memory server", await best(variants, calls, batches), "bare")
            tasks.cancel_scope.cancel()


async def tapped(calls: int, batches: int) -> None:
    """The same with the wire read along, as `connect()` has it."""
    server = memory_server()
    async with AsyncExitStack() as stack:
        sessions: dict[str, ClientSession] = {}
        for name in ("bare", "read along", "read along, 1 layer", "read along, 1 layer, a listener"):
            client, (read, write) = await stack.enter_async_context(create_client_server_memory_streams())
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(server.run, read, write, server.create_initialization_options())
            if name == "bare":
                session = await stack.enter_async_context(ClientSession(*client))
                await session.initialize()
            else:
                layers = [pass_through] if "layer" in name else []
                listener = (lambda direction, message: None) if "listener" in name else None
                session = await stack.enter_async_context(connect(client, *layers, on_frame=listener))
            await session.call_tool("echo", {"text": "x"})
            sessions[name] = session
        variants = {name: partial(session.call_tool, "echo", {"text": "x"}) for name, session in sessions.items()}
        show("The in-memory server, the wire read along", await best(variants, calls, batches), "bare")


async def incoming(calls: int, batches: int) -> None:
    """What the server sends: a notification until its handler has it, a request until its answer is back."""
    notification = wire_message({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    request = wire_message({"jsonrpc": "2.0", "method": "roots/list", "id": 1})

    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[])

    notify: dict[str, Once] = {}
    ask: dict[str, Once] = {}
    held: list[ClientSession] = []
    async with AsyncExitStack() as stack:
        for name, layers in {
            "bare": None,
            "wrapped, no middleware": 0,
            "wrapped, 1 layer": 1,
            "wrapped, 3 layers": 3,
        }.items():
            streams = create_client_server_memory_streams()
            client, (read, write) = await stack.enter_async_context(streams)
            handled, heard = anyio.create_memory_object_stream[Any](10)
            stack.enter_context(handled)
            stack.enter_context(heard)
            handler: Any = handled.send
            session = ClientSession(*client, list_roots_callback=roots, message_handler=handler)
            if layers is not None:
                held.append(intercept(session, *[pass_through] * layers))
            await stack.enter_async_context(session)

            async def send_and_receive(message: Any, write: Any, back: Any) -> None:
                await write.send(message)
                await back.receive()

            notify[name] = partial(send_and_receive, notification, write, heard)
            ask[name] = partial(send_and_receive, request, write, read)
        show("A notification of the server", await best(notify, calls, batches), "bare")
        show("A request of the server", await best(ask, calls, batches), "bare")


def wire_message(frame: dict[str, Any]) -> SessionMessage:
    if isinstance(types.ClientRequest, type):
        line_1: Any = types
        return SessionMessage(line_1.JSONRPCMessage.model_validate(frame))
    from mcp.types import jsonrpc_message_adapter

    return SessionMessage(jsonrpc_message_adapter.validate_python(frame))


async def in_flight(count: int, batches: int) -> None:
    """Many calls at once on a session whose server answers when all have arrived."""

    async def volley(session: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(session.call_tool, "echo", {"text": "x"})

    server = memory_server()
    async with create_client_server_memory_streams() as (client, (server_read, server_write)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, server_read, server_write, server.create_initialization_options())
            async with ClientSession(*client) as bare:
                await bare.initialize()
                await bare.list_tools()
                wrapped = intercept(bare, *[pass_through] * 3)
                variants: dict[str, Once] = {"bare": lambda: volley(bare), "wrapped, 3 layers": lambda: volley(wrapped)}
                figures = await best(variants, 1, batches)
                show(f"{count} calls in flight at once", figures, "bare")
            tasks.cancel_scope.cancel()


async def memory(calls: int) -> None:
    """What a million calls leave behind."""
    send, read = anyio.create_memory_object_stream[Any](1)
    write, receive = anyio.create_memory_object_stream[Any](1)
    with send, read, write, receive:
        async with InstantSession(read, write) as bare:
            bare._tool_output_schemas["t"] = None
            manager = MiddlewareManager([pass_through] * 3)
            manager.add_observer(lambda context, response: None)
            session = CallbackClientSession(bare, "bench", manager)

            async def some(count: int) -> None:
                for _ in range(count):
                    await session.call_tool("t", {})

            await some(1000)
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            # Tracing slows down; the last tenth tells as much as all.
            tracemalloc.stop()
            await some(calls - calls // 10)
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            await some(calls // 10)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    print(f"\n{calls:,} calls, 3 layers and an observer\n  memory kept after the last tenth: {after - before:+d} bytes")


def imports(rounds: int) -> None:
    """What importing costs on top of the SDK, in fresh processes."""
    figures = {"import mcp": float("inf"), "import mcp_intercept": float("inf")}
    probe = "from time import process_time as t; a = t(); {}; print(t() - a)"
    for _ in range(rounds):
        for statement in figures:
            run = subprocess.run([sys.executable, "-c", probe.format(statement)], capture_output=True, check=True)
            figures[statement] = min(figures[statement], float(run.stdout))
    show("Importing", figures, "import mcp")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that it runs; the figures mean nothing")
    quick = parser.parse_args().quick
    version = importlib.metadata.version("mcp")
    print(f"mcp {version}, Python {sys.version.split()[0]}, asyncio")
    anyio.run(instant, 20 if quick else 2000, 1 if quick else 25)
    anyio.run(in_memory, 5 if quick else 300, 1 if quick else 25)
    anyio.run(tapped, 5 if quick else 300, 1 if quick else 25)
    anyio.run(incoming, 5 if quick else 300, 1 if quick else 25)
    anyio.run(in_flight, 50 if quick else 10_000, 1 if quick else 5)
    anyio.run(memory, 1000 if quick else 1_000_000)
    imports(1 if quick else 7)


if __name__ == "__main__":
    main()
