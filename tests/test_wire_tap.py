"""What is read along on the wire: every frame, and of each call its real id and response."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import ref

import anyio
import mcp.types as types
import pytest
from mcp import ClientSession

from mcp_intercept import Exchange, MiddlewareManager, connect, intercept
from mcp_intercept._wire import WireTap
from tests.server import make_server
from tests.wire import LINE_1, Frame, WireServer, never, wire

pytestmark = pytest.mark.anyio


async def through(context: Any, call_next: Any) -> Any:
    return await call_next(context)


def as_frame(message: Any) -> Frame:
    frame: Frame = message.model_dump(by_alias=True, mode="json", exclude_unset=True)
    return frame


def ids_of(exchanges: list[Exchange]) -> list[Any]:
    return [exchange.context.jsonrpc_id for exchange in exchanges]


class Frames(list[tuple[str, Frame]]):
    """A listener that keeps every frame."""

    def __call__(self, direction: str, message: Any) -> None:
        self.append((direction, as_frame(message)))

    def going(self, direction: str) -> list[Frame]:
        return [frame for way, frame in self if way == direction]


async def test_every_frame_is_seen_in_order_with_its_id() -> None:
    frames = Frames()
    async with wire() as (streams, server), connect(streams, on_frame=frames) as session:
        server.answers["tools/call"] = never
        asked = {"jsonrpc": "2.0", "id": "question-1", "method": "ping"}
        await server.send(asked)
        while not any(frame.get("id") == "question-1" for frame in server.frames):
            await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(0.05):
            await session.call_tool("tool")
        abandoned = await server.wait_for("notifications/cancelled")
        await session.send_ping()
        # What nobody above the wire knows of, is in it: the answer to the ping, and that a call was given up.
        assert frames.going("outgoing") == server.frames
        assert abandoned["params"]["requestId"] == server.sent("tools/call")[0]["id"]
        incoming = frames.going("incoming")
        assert asked in incoming
        answered = [frame["id"] for frame in server.frames if frame.get("method") in ("initialize", "ping")]
        assert [frame["id"] for frame in incoming if "result" in frame] == answered


async def test_the_response_is_what_the_server_sent_and_no_reconstruction() -> None:
    result = {"content": [], "structuredContent": {"a": 1}, "acme": {"b": None}}
    manager = MiddlewareManager([through])
    async with wire() as (streams, server), connect(streams, manager) as session:

        async def answer(frame: Frame) -> Frame:
            return result

        server.answers["tools/call"] = answer
        with manager.capture() as exchanges:
            await session.call_tool("tool")
        [(context, response), *_] = exchanges
        assert as_frame(response.jsonrpc_response) == {"jsonrpc": "2.0", "id": context.jsonrpc_id, "result": result}
        assert context.jsonrpc_id == server.sent("tools/call")[0]["id"]
        # The typed result shows what was never sent.
        assert "isError" in response.result.model_dump(by_alias=True)


async def test_an_error_response_is_captured_too() -> None:
    manager = MiddlewareManager([through])
    async with wire() as (streams, server), connect(streams, manager) as session:

        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], -32000, "no")

        server.answers["tools/call"] = refuse
        with manager.capture() as exchanges, pytest.raises(Exception, match="no"):
            await session.call_tool("tool")
        [(context, response)] = exchanges
        assert as_frame(response.jsonrpc_response)["error"]["code"] == -32000
        assert response.jsonrpc_response.id == context.jsonrpc_id
        assert response.outcome == "error"


async def test_each_of_many_calls_gets_its_own() -> None:
    manager = MiddlewareManager([through])
    count = 300
    async with wire() as (streams, server), connect(streams, manager) as session:
        waiting: list[Frame] = []

        async def hold(frame: Frame) -> None:
            waiting.append(frame)
            if len(waiting) == count:
                random.Random(1).shuffle(waiting)
                for held in waiting:
                    text = held["params"]["arguments"]["number"]
                    await server.reply(held["id"], {"content": [{"type": "text", "text": text}]})

        server.answers["tools/call"] = hold
        with manager.capture() as exchanges:
            async with anyio.create_task_group() as tasks:
                for number in range(count):
                    tasks.start_soon(session.call_tool, "tool", {"number": str(number)})
        calls = [exchange for exchange in exchanges if exchange.context.method == "tools/call"]
        assert len({exchange.context.jsonrpc_id for exchange in calls}) == count
        for context, response in calls:
            assert response.jsonrpc_response.id == context.jsonrpc_id
            assert response.jsonrpc_response.result["content"][0]["text"] == context.params.arguments["number"]


async def test_a_retry_has_the_id_and_the_response_of_its_last_attempt() -> None:
    seen: list[Any] = []

    async def retry(context: Any, call_next: Any) -> Any:
        if context.method == "tools/call":
            with suppress(Exception):
                await call_next(context)
            seen.append(context.jsonrpc_id)
        return await call_next(context)

    manager = MiddlewareManager([retry])
    async with wire() as (streams, server), connect(streams, manager) as session:

        async def refuse_once(frame: Frame) -> Frame | None:
            if frame["id"] == server.sent("tools/call")[0]["id"]:
                await server.refuse(frame["id"], 1, "not now")
                return None
            return {"content": []}

        server.answers["tools/call"] = refuse_once
        with manager.capture() as exchanges:
            await session.call_tool("tool")
        first, second = server.sent("tools/call")
        assert seen == [first["id"]]
        assert exchanges[0].context.jsonrpc_id == second["id"]
        assert as_frame(exchanges[0].response.jsonrpc_response)["id"] == second["id"]


async def test_a_short_cut_has_neither() -> None:
    async def answer(context: Any, call_next: Any) -> Any:
        return {"content": []} if context.method == "tools/call" else await call_next(context)

    manager = MiddlewareManager([answer])
    async with wire() as (streams, _), connect(streams, manager) as session:
        with manager.capture() as exchanges:
            await session.call_tool("tool")
    assert (exchanges[0].context.jsonrpc_id, exchanges[0].response.jsonrpc_response) == (None, None)


async def test_every_wrapper_around_the_session_knows() -> None:
    inner, outer = MiddlewareManager([through]), MiddlewareManager([through])
    async with wire() as (streams, server), connect(streams, inner) as session:
        with inner.capture() as below, outer.capture() as above:
            await intercept(session, outer).send_ping()
        assert ids_of(below) == ids_of(above) == [server.sent("ping")[0]["id"]]
        assert below[0].response.jsonrpc_response is above[0].response.jsonrpc_response is not None


async def test_without_a_tap_there_is_neither() -> None:
    manager = MiddlewareManager([through])
    async with wire() as (streams, _), ClientSession(*streams) as session:
        with manager.capture() as exchanges:
            await intercept(session, manager).send_ping()
    assert (exchanges[0].context.jsonrpc_id, exchanges[0].response.jsonrpc_response) == (None, None)


@pytest.mark.parametrize("answered_as", ["the string", "another id", "nothing at all"])
async def test_an_answer_under_another_id_is_as_on_the_bare_sdk(answered_as: str) -> None:
    manager = MiddlewareManager([through])
    ids: dict[str, Callable[[Any], Any]] = {"the string": str, "another id": lambda request_id: request_id + 100}

    async def ask(session: ClientSession, server: WireServer) -> Any:
        async def answer(frame: Frame) -> None:
            if answered_as in ids:
                await server.reply(ids[answered_as](frame["id"]), {})

        server.answers["ping"] = answer
        with anyio.move_on_after(0.1):
            return await session.send_ping()
        return None

    async with wire() as (streams, server), ClientSession(*streams) as bare:
        await bare.initialize()
        expected = await ask(bare, server)
    async with wire() as (streams, server), connect(streams, manager) as session:
        with manager.capture() as exchanges:
            assert await ask(session, server) == expected
        # An id that the SDK takes for the same is the same here.
        assert (exchanges[0].response.jsonrpc_response is not None) == (answered_as == "the string")


async def test_nothing_is_kept_of_calls_that_were_given_up() -> None:
    params: list[ref[Any]] = []

    async def note(context: Any, call_next: Any) -> Any:
        if context.method == "tools/call":
            params.append(ref(context.params))
        return await call_next(context)

    async with wire() as (streams, server):
        server.answers["tools/call"] = never
        async with connect(streams) as session:
            session.middleware_manager.add_middleware(note)
            for _ in range(3):
                with anyio.move_on_after(0.02):
                    await session.call_tool("tool")
            server.frames.clear()
            await session.send_ping()
            gc.collect()
            assert [param() for param in params] == [None, None, None]


async def test_a_listener_that_fails_is_logged_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(direction: str, message: Any) -> None:
        raise RecursionError("too deep")

    async with connect(make_server(), on_frame=fail) as session:
        result = await session.call_tool("echo", {"text": "hello"})
        assert result.content[0].text == "hello"  # type: ignore[union-attr]
    assert [record.levelno for record in caplog.records if "frame listener" in record.message] == [logging.ERROR]


async def test_failures_of_the_transport_reach_the_message_handler() -> None:
    async with wire() as (streams, server):
        handled: list[Any] = []
        arrived = anyio.Event()

        async def handle(message: Any) -> None:
            handled.append(message)
            arrived.set()

        frames = Frames()
        async with connect(streams, on_frame=frames, message_handler=handle):
            failure = ValueError("not JSON")
            await server._write.send(failure)
            with anyio.fail_after(30):
                await arrived.wait()
        assert handled == [failure]
        assert all("jsonrpc" in frame for _, frame in frames)


@pytest.mark.skipif(LINE_1, reason="line 1 knows only the handshake")
async def test_what_the_sdk_sends_past_its_own_send_request_is_captured_too() -> None:
    manager = MiddlewareManager([through])
    async with wire() as (streams, server):
        with manager.capture() as exchanges:
            async with connect(streams, manager, mode="auto"):
                pass
        [(context, response)] = exchanges
        assert context.method == "server/discover"
        assert context.jsonrpc_id == response.jsonrpc_response.id == server.frames[0]["id"]
        assert isinstance(response.jsonrpc_response, types.JSONRPCResponse)


async def test_a_stream_that_is_read_message_by_message_is_read_along_too() -> None:
    frames = Frames()
    async with wire() as (streams, server):
        read, _ = WireTap(frames).streams(*streams)
        await server.notify("notifications/message", {"level": "info", "data": 1})
        item = await read.receive()
    assert [frame for _, frame in frames] == [as_frame(getattr(item.message, "root", item.message))]


@pytest.mark.skipif(LINE_1, reason="line 1 asks its stream whether the call was given up")
async def test_a_call_that_was_given_up_before_has_no_id() -> None:
    manager = MiddlewareManager([through])
    async with wire() as (streams, server), connect(streams, manager) as session:
        with manager.capture() as exchanges, anyio.CancelScope() as scope:
            scope.cancel()
            await session.send_ping()
        assert [exchange.response.outcome for exchange in exchanges] == ["cancelled"]
        assert (exchanges[0].context.jsonrpc_id, exchanges[0].response.jsonrpc_response) == (None, None)
        assert server.sent("ping") == []
