"""A call can be given up at any moment: it ends as on a bare session, leaves nothing behind, and the server is told."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from inspect import signature
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import ClientSession
from mcp.shared.message import ClientMessageMetadata, SessionMessage

from mcp_intercept import Middleware, MiddlewareContext, NextFunctionT, intercept, middleware
from tests.server import ROOT, STDIO
from tests.test_fidelity import (
    CALLS,
    SUBSCRIPTION_ID,
    WRAPPINGS,
    EndNotification,
    T,
    Through,
    all_heard,
    call_tool_request,
    converse,
    outcome,
    request,
    seconds,
    speaking,
    subscriptions,
    through,
    told,
)
from tests.wire import LINE_1, RESULTS, Frame, WireServer, never, wire

pytestmark = pytest.mark.anyio

only_line_1 = pytest.mark.skipif(not LINE_1, reason="line 2 has a way of its own")


def _takes_no_arguments(built_in: Any) -> bool:
    return all(parameter.default is not parameter.empty for parameter in signature(built_in).parameters.values())


_BUILT_INS: dict[str, Any] = {name: getattr(middleware, name) for name in middleware.__all__}
BUILT_INS = {name: built_in for name, built_in in _BUILT_INS.items() if _takes_no_arguments(built_in)}
"""The built-in middlewares that can be made without arguments."""


def _built_in(*makes: Any) -> Callable[[Any], tuple[Any, Any]]:
    def wrap(session: Any) -> tuple[Any, Any]:
        wrapped = intercept(session, *[make() for make in makes])
        return wrapped, wrapped

    return wrap


LAYERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    **WRAPPINGS,
    **{name: _built_in(make) for name, make in BUILT_INS.items()},
    "every built-in": _built_in(*BUILT_INS.values()),
}
"""The ways to put layers round a session that add no suspension."""


# ---------------------------------------------------------------------------------------------------------------------
# Driving a call step by step.


class Steps:
    """Awaits something, counts how often it suspends, and does something at one of these moments.

    Attributes:
        suspensions: How often it has suspended so far.
    """

    def __init__(self, awaitable: Awaitable[Any], at: float, strike: Callable[[], object]) -> None:
        self.suspensions = 0
        self._awaitable = awaitable
        self._at = at
        self._strike = strike

    async def taken_by(self, session: Any) -> Any:
        """Take them, as a call that a session is asked for."""
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._awaitable.__await__()
        resume: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                trap = resume()
            except StopIteration as end:
                return end.value
            self.suspensions += 1
            if self.suspensions == self._at:
                self._strike()
            try:
                answer = yield trap
            except BaseException as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, answer)


def pending(session: Any) -> list[Any]:
    """What the SDK still keeps of requests that are under way."""
    if LINE_1:
        return [*session._response_streams, *session._progress_callbacks, *session._in_flight]
    return [*session._dispatcher._pending, *session._dispatcher._in_flight, *session._listen_routes]


async def settle(before: list[anyio.TaskInfo]) -> None:
    """Wait until no other tasks run than before."""
    known = {task.id for task in before}
    with anyio.fail_after(30):
        while {task.id for task in anyio.get_running_tasks()} - known:
            await checkpoint()


@asynccontextmanager
async def layered(name: str | None, **options: Any) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A running session, bare or behind the layers of that name, and its server, which answers everything."""
    async with wire() as (streams, server):
        await converse(server, modern=False)
        session = ClientSession(*streams, **options)
        to_enter, to_use = LAYERS[name](session) if name else (session, session)
        with anyio.fail_after(60):
            async with to_enter:
                yield to_use, server


def told_of(server: WireServer) -> list[Any]:
    """The ids of the requests that the server was told to forget."""
    return [frame["params"]["requestId"] for frame in server.sent("notifications/cancelled")]


async def give_up(name: str | None, say: Callable[[Any], Awaitable[Any]], at: float, listed: bool) -> dict[str, Any]:
    """Cancel a call at its `at`-th suspension, and see how it ended and what it left behind."""
    async with layered(name) as (session, server):
        if listed:
            await session.list_tools()
        before = anyio.get_running_tasks()
        ending = "cancelled"
        scope = anyio.CancelScope()
        steps = Steps(say(session), at, scope.cancel)
        with scope:
            if at == 0:
                scope.cancel()
            ending = await outcome(steps.taken_by, session)
        left = pending(session)
        # It works on, and the server has heard all there was to hear.
        with anyio.fail_after(30):
            await session.send_ping()
            await all_heard(session, server)
        await settle(before)
        issued = [frame["id"] for frame in server.frames if "id" in frame]
        return {
            "ending": ending,
            "swallowed": scope.cancel_called and ending == "cancelled" and not scope.cancelled_caught,
            "suspensions": steps.suspensions,
            "methods": [method for method in server.methods if not (LINE_1 and method == "notifications/cancelled")],
            "left": left,
            "told of what was not issued": LINE_1 and bool(set(told_of(server)) - set(issued)),
            "told twice": len(told_of(server)) - len(set(told_of(server))),
        }


async def give_up_everywhere(name: str | None, say: Any, listed: bool = False) -> list[dict[str, Any]]:
    """Give up at every suspension there is, and last at none."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["ending"] == "cancelled":
        found.append(await give_up(name, say, len(found), listed))
        assert len(found) < 60
    return found


class Progress:
    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        pass


async def two_pages(session: Any) -> Any:
    return [told(await session.list_tools()), told(await session.list_prompts())]


GIVEN_UP: dict[str, tuple[Any, bool]] = {
    "call_tool": (CALLS["call_tool: arguments"], True),
    "call_tool with a timeout and progress": (
        lambda session: session.call_tool("tool", {}, seconds(60), Progress()),
        True,
    ),
    "call_tool, which lists the tools": (CALLS["call_tool: arguments"], False),
    "initialize": (CALLS["initialize"], False),
    "send_ping": (CALLS["send_ping"], False),
    "a request of a vendor": (CALLS["send_request: vendor"], False),
    "a notification": (CALLS["send_notification: vendor"], False),
    "two requests": (two_pages, False),
}
if not LINE_1:
    GIVEN_UP["discover"] = CALLS["discover"], False

SUSPENSIONS = {"call_tool": 3, "a notification": 1}
"""Of a bare session, as measured; that others are equal to the bare ones is what matters."""


@pytest.mark.parametrize("call", GIVEN_UP)
async def test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session(call: str) -> None:
    say, listed = GIVEN_UP[call]
    bare = await give_up_everywhere(None, say, listed)
    wrapped = {name: await give_up_everywhere(name, say, listed) for name in LAYERS}
    assert {name: found for name, found in wrapped.items() if found != bare} == {}
    # The one before the first, each of the suspensions, and the one that was never reached.
    assert len(bare) == bare[-1]["suspensions"] + 2 > 2
    assert [found["ending"] for found in bare[:-1]] == ["cancelled"] * (len(bare) - 1)
    assert all(not found["left"] and not found["swallowed"] for found in bare)
    assert bare[-1]["suspensions"] == SUSPENSIONS.get(call, bare[-1]["suspensions"])


FAILING: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "a timeout": lambda session: session.call_tool("silent", {}, seconds(0)),
    "an error of the server": lambda session: session.call_tool("refused"),
    "a result of the wrong shape": lambda session: session.call_tool("garbled"),
}


@pytest.mark.parametrize("failure", FAILING)
async def test_a_call_that_fails_suspends_as_often_as_on_a_bare_session(failure: str) -> None:
    async def suspensions(name: str | None) -> tuple[int, Any]:
        async with layered(name) as (session, server):

            async def answer(frame: Frame) -> Frame | None:
                if frame["params"]["name"] == "refused":
                    await server.refuse(frame["id"], -32602, "no")
                return {"content": "text"} if frame["params"]["name"] == "garbled" else None

            server.answers["tools/call"] = answer
            steps = Steps(FAILING[failure](session), 0, bool)
            ending = await outcome(steps.taken_by, session)
            return steps.suspensions, ending[:3]

    bare = await suspensions(None)
    assert issubclass(bare[1][0], Exception)
    assert {name: found for name in LAYERS if (found := await suspensions(name)) != bare} == {}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", LAYERS)
async def test_a_task_cancelled_the_way_of_asyncio_ends_at_each_suspension(name: str) -> None:
    import asyncio  # noqa: TID251 - native cancellation is what this is about

    async def cancel_at(at: int, wrapping: str | None) -> Any:
        async with layered(wrapping) as (session, server):
            before = anyio.get_running_tasks()
            steps = Steps(session.call_tool("tool"), at, lambda: task.cancel())

            async def call() -> Any:
                return await steps

            task = asyncio.ensure_future(call())
            try:
                ending: Any = told(await task)
            except asyncio.CancelledError:
                ending = "cancelled"
            left = pending(session)
            with anyio.fail_after(30):
                await session.send_ping()
                await all_heard(session, server)
            await settle(before)
            return ending, steps.suspensions, left

    async def cancel_everywhere(wrapping: str | None) -> list[Any]:
        found: list[Any] = []
        while not found or found[-1][0] == "cancelled":
            found.append(await cancel_at(len(found) + 1, wrapping))
        return found

    bare = await cancel_everywhere(None)
    assert len(bare) > 4
    assert await cancel_everywhere(name) == bare


@pytest.mark.parametrize("name", LAYERS)
async def test_a_cancelled_call_has_the_outcome_cancelled(name: str) -> None:
    async with layered(name) as (session, server):
        server.answers["tools/call"] = never
        with session.middleware_manager.capture() as exchanges:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.call_tool, "tool")
                await server.wait_for("tools/call")
                tasks.cancel_scope.cancel()
        assert [exchange.response.outcome for exchange in exchanges] == ["cancelled"]


# ---------------------------------------------------------------------------------------------------------------------
# The server is told.


@asynccontextmanager
async def under_way(
    session: Any, server: WireServer, say: Callable[[Any], Awaitable[Any]], method: str
) -> AsyncGenerator[Frame, None]:
    """Give up a call whose request has arrived, at the end of the block; the value is the frame of the request."""
    server.answers[method] = never
    ended: list[Any] = []

    async def call() -> None:
        with anyio.CancelScope() as scope:
            ended.append(scope)
            await say(session)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        frame = await server.wait_for(method)
        yield frame
        ended[0].cancel()
    assert ended[0].cancelled_caught


@pytest.mark.parametrize("name", LAYERS)
async def test_the_server_is_told_once_of_a_cancelled_call(name: str) -> None:
    async with layered(name) as (session, server):
        await session.send_ping()
        async with under_way(session, server, CALLS["call_tool: meta"], "tools/call") as frame:
            pass
        frames, _ = await all_heard(session, server)
        told_frame = frames[-2]
        reason = told_frame["params"].pop("reason")
        assert isinstance(reason, str)
        assert told_frame == {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": frame["id"]},
        }
        assert told_of(server) == [frame["id"]]


@pytest.mark.parametrize("of_session", [False, True], ids=["timeout of the call", "timeout of the session"])
@pytest.mark.parametrize("name", LAYERS)
async def test_the_server_is_told_once_of_a_call_that_timed_out(name: str, of_session: bool) -> None:
    options = {"read_timeout_seconds": seconds(0.01)} if of_session else {}
    async with layered(name, **options) as (session, server):
        server.answers["tools/call"] = never
        timeout = None if of_session else seconds(0.01)
        failed = await outcome(lambda session: session.call_tool("tool", {}, timeout), session)
        assert failed[1][0] == (408 if LINE_1 else -32001)
        await all_heard(session, server)
        assert told_of(server) == [server.sent("tools/call")[0]["id"]]


async def test_the_server_is_told_where_the_caller_has_a_timeout_of_his_own() -> None:
    async with layered("three functions") as (session, server):
        scope = anyio.CancelScope()

        async def time_out(frame: Frame) -> None:
            scope.deadline = anyio.current_time()
            await never(frame)

        server.answers["tools/call"] = time_out
        with scope:
            await session.call_tool("tool")
        assert scope.cancelled_caught
        await all_heard(session, server)
        assert told_of(server) == [server.sent("tools/call")[0]["id"]]


@pytest.mark.parametrize("make", [ClientSession, "slow to send", "sends twice"], ids=str)
async def test_of_calls_at_once_the_server_is_told_of_the_right_ones(make: Any) -> None:
    """Whatever a subclass does before it sends: the id is that of the very request."""

    turns = count()

    class SlowToSend(ClientSession):
        async def send_request(self, request: Any, *args: Any, **options: Any) -> Any:
            # So that they overtake each other.
            for _ in range(next(turns) * 7 % 5):
                await checkpoint()
            return await super().send_request(request, *args, **options)

    class SendsTwice(ClientSession):
        async def send_request(self, request: Any, *args: Any, **options: Any) -> Any:
            await super().send_request(*ping())
            return await super().send_request(request, *args, **options)

    classes: dict[Any, Any] = {"slow to send": SlowToSend, "sends twice": SendsTwice}
    async with speaking("every hook three times", classes.get(make, make)) as (session, server):
        release = anyio.Event()
        scopes: dict[int, anyio.CancelScope] = {}
        endings: dict[int, str] = {}

        async def answer(frame: Frame) -> Frame | None:
            number = frame["params"]["arguments"]["number"]
            if number % 3 == 0:
                await release.wait()
                return RESULTS["tools/call"]
            return None

        async def call(number: int) -> None:
            timeout = seconds(0.05) if number % 3 == 2 else None
            with anyio.CancelScope() as scopes[number]:
                say = partial(session.send_request, *call_tool_request(arguments={"number": number}), timeout)
                endings[number] = str(await outcome(lambda _: say(), session))

        server.answers["tools/call"] = answer
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(call, number)
            await server.wait_for("tools/call", 30)
            for number in range(1, 30, 3):
                scopes[number].cancel()
            await server.wait_for("notifications/cancelled", 20)
            release.set()
        await all_heard(session, server)
        numbers = {frame["id"]: frame["params"]["arguments"]["number"] for frame in server.sent("tools/call")}
        assert sorted(numbers.get(request_id, -1) for request_id in told_of(server)) == [
            number for number in range(30) if number % 3
        ]
        assert pending(session) == []
        assert {number for number, ending in endings.items() if "done" in ending} == set(range(0, 30, 3))


def ping() -> tuple[Any, Any]:
    return request(T.PingRequest()), T.EmptyResult


@pytest.mark.parametrize("name", LAYERS)
async def test_the_handshake_is_never_called_off(name: str) -> None:
    async with layered(name) as (session, server):
        async with under_way(session, server, CALLS["initialize"], "initialize"):
            pass
        await all_heard(session, server)
    async with layered(name, read_timeout_seconds=seconds(0.01)) as (session, server):
        server.answers["initialize"] = never
        assert (await outcome(CALLS["initialize"], session))[1][0] == (408 if LINE_1 else -32001)
        await all_heard(session, server)
        assert server.methods == ["initialize", "notifications/test/end"]


if not LINE_1:

    @pytest.mark.parametrize("name", LAYERS)
    async def test_discovery_is_never_called_off(name: str) -> None:
        async with layered(name) as (session, server):
            async with under_way(session, server, CALLS["discover"], "server/discover"):
                pass
            await all_heard(session, server)
            assert server.methods == ["server/discover", "notifications/test/end"]

    @pytest.mark.parametrize("name", LAYERS)
    async def test_a_listen_stream_that_is_left_is_called_off_once(name: str) -> None:
        async def left(wrapping: str | None) -> Any:
            async with layered(wrapping) as (session, server):
                await converse(server, modern=True)
                await session.discover()

                async def acknowledge(frame: Frame) -> None:
                    stamp = {"_meta": {SUBSCRIPTION_ID: frame["id"]}}
                    honored = {"notifications": frame["params"]["notifications"]}
                    await server.notify("notifications/subscriptions/acknowledged", {**honored, **stamp})

                server.answers["subscriptions/listen"] = acknowledge
                before = anyio.get_running_tasks()
                async with subscriptions.listen(session, tools_list_changed=True) as subscription:
                    pass
                await server.wait_for("notifications/cancelled")
                await all_heard(session, server)
                await settle(before)
                told_all = [each == subscription.subscription_id for each in told_of(server)]
                return told_all, server.methods, pending(session)

        assert await left(name) == await left(None)
        assert (await left(name))[0] == [True]


RESUMABLE = {
    "a token": ClientMessageMetadata(resumption_token="t"),
    "a listener for tokens": ClientMessageMetadata(on_resumption_token_update=lambda token: checkpoint()),
}


@pytest.mark.parametrize("timed_out", [False, True], ids=["cancelled", "timed out"])
@pytest.mark.parametrize("metadata", RESUMABLE.values(), ids=RESUMABLE)
async def test_a_request_that_can_be_resumed_is_not_called_off(metadata: Any, timed_out: bool) -> None:
    async with layered("three functions") as (session, server):
        server.answers["tools/call"] = never
        timeout = seconds(0.01) if timed_out else None
        say = partial(session.send_request, *call_tool_request(), timeout, metadata)
        if timed_out:
            assert (await outcome(lambda _: say(), session))[1] is not None
        else:
            async with under_way(session, server, lambda _: say(), "tools/call"):
                pass
        await all_heard(session, server)
        assert server.methods == ["tools/call", "notifications/test/end"]


async def test_each_attempt_that_is_given_up_is_called_off() -> None:
    async def retry(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        for _ in range(2):
            with anyio.move_on_after(0.01):
                return await call_next(context)
        context.options.timeout = 0.01
        return await call_next(context)

    async with wire() as (streams, server):
        server.answers["tools/call"] = never
        with anyio.fail_after(30):
            async with intercept(ClientSession(*streams), through, retry, Through()) as session:
                await outcome(CALLS["call_tool: meta"], session)
                await all_heard(session, server)
        assert told_of(server) == [frame["id"] for frame in server.sent("tools/call")]
        assert len(told_of(server)) == 3


async def test_a_call_that_a_middleware_never_sends_is_not_called_off() -> None:
    class Waits(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            waiting.set()
            await anyio.sleep_forever()

    waiting = anyio.Event()
    async with wire() as (streams, server):
        with anyio.fail_after(30):
            async with intercept(ClientSession(*streams), through, Waits()) as session:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(session.call_tool, "tool")
                    await waiting.wait()
                    tasks.cancel_scope.cancel()
                await all_heard(session, server)
        assert server.methods == ["notifications/test/end"]


@pytest.mark.parametrize("handling", [None, TimeoutError], ids=["alone", "while a timeout is handled"])
@pytest.mark.parametrize("code", [-32602, 408, -32001])
async def test_a_call_that_the_server_answered_with_an_error_is_not_called_off(code: int, handling: Any) -> None:
    async with layered("three functions") as (session, server):

        async def refuse(frame: Frame) -> None:
            await server.refuse(frame["id"], code, "no")

        server.answers["tools/call"] = refuse
        failed: Any = None
        try:
            if handling:
                raise handling
        except TimeoutError:
            failed = await outcome(CALLS["call_tool: meta"], session)
        else:
            failed = await outcome(CALLS["call_tool: meta"], session)
        assert failed[1][0] == code
        await all_heard(session, server)
        assert server.methods == ["tools/call", "notifications/test/end"]


@only_line_1
@pytest.mark.parametrize("timed_out", [False, True], ids=["cancelled", "timed out"])
async def test_a_call_that_became_a_task_is_not_called_off(timed_out: bool) -> None:
    """Specification 2025-11-25, basic/utilities/cancellation: tasks have a `tasks/cancel` of their own, a MUST."""
    options = {"read_timeout_seconds": seconds(0.01)} if timed_out else {}
    async with layered("three functions", **options) as (session, server):
        if timed_out:
            server.answers["tools/call"] = never
            await outcome(CALLS["call_tool_as_task"], session)
        else:
            async with under_way(session, server, CALLS["call_tool_as_task"], "tools/call"):
                pass
        await all_heard(session, server)
        assert server.methods == ["tools/call", "notifications/test/end"]


@pytest.mark.parametrize("name", LAYERS)
async def test_a_call_given_up_after_the_connection_closed_ends_as_on_a_bare_session(name: str) -> None:
    async def gone(wrapping: str | None) -> Any:
        async with layered(wrapping) as (session, server):
            await server.close()
            await anyio.wait_all_tasks_blocked()
            closed = await outcome(CALLS["send_ping"], session)
            endings: list[Any] = []
            for at in range(4):
                with anyio.CancelScope() as scope:
                    steps = Steps(session.call_tool("tool"), at, scope.cancel)
                    if at == 0:
                        scope.cancel()
                    endings.append(await outcome(steps.taken_by, session))
            return closed, endings, pending(session)

    assert await gone(name) == await gone(None)


@pytest.mark.parametrize("name", [None, *LAYERS])
async def test_leaving_a_session_with_calls_under_way_ends_them_all(name: str | None) -> None:
    before = anyio.get_running_tasks()
    async with layered(name) as (session, server):
        server.answers["tools/call"] = never
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(session.call_tool, "tool")
            await server.wait_for("tools/call", 5)
            tasks.cancel_scope.cancel()
    await settle(before)


# ---------------------------------------------------------------------------------------------------------------------
# A connection that does not take what is written: line 1 writes the notification itself, and must never wait for it.
# (Line 2 waits up to five seconds, with and without this package.)


@asynccontextmanager
async def unread(wrapping: str | None, **options: Any) -> AsyncGenerator[tuple[Any, Any, Any], None]:
    """A session whose messages are taken one by one; what to take them from, and what to answer with."""
    to_client, read = anyio.create_memory_object_stream[Any](8)
    write, from_client = anyio.create_memory_object_stream[Any](0)
    session = ClientSession(read, write, **options)
    to_enter, to_use = LAYERS[wrapping](session) if wrapping else (session, session)
    async with to_client, from_client:
        with anyio.fail_after(30):
            async with to_enter:
                yield to_use, from_client, to_client


async def frame_of(stream: Any) -> Frame:
    message = (await stream.receive()).message
    frame: Frame = message.model_dump(by_alias=True, mode="json", exclude_none=True)
    return frame


@only_line_1
@pytest.mark.parametrize("name", LAYERS)
async def test_a_request_that_nobody_took_is_not_called_off(name: str) -> None:
    async with unread(name) as (session, from_client, _):
        with anyio.move_on_after(0.01) as scope:
            await session.call_tool("tool")
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.send_notification, EndNotification())
            assert (await frame_of(from_client))["method"] == "notifications/test/end"
        # Nothing waits to be written either.
        assert from_client.statistics().tasks_waiting_send == 0


@only_line_1
@pytest.mark.parametrize("name", LAYERS)
async def test_a_request_taken_in_the_moment_it_is_given_up_is_called_off(name: str) -> None:
    async with unread(name) as (session, from_client, _):
        scope = anyio.CancelScope()

        async def call() -> None:
            with scope:
                await session.call_tool("tool")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            taken = from_client.receive_nowait().message.root
            scope.cancel()
            frame = await frame_of(from_client)
            assert (frame["method"], frame["params"]["requestId"]) == ("notifications/cancelled", taken.id)
        assert scope.cancelled_caught


@only_line_1
@pytest.mark.parametrize("timed_out", [False, True], ids=["cancelled", "timed out"])
@pytest.mark.parametrize("name", LAYERS)
async def test_telling_the_server_never_delays_the_end_of_the_call(name: str, timed_out: bool) -> None:
    async with unread(name) as (session, from_client, _):
        frames: list[Frame] = []
        ended = anyio.Event()
        scope = anyio.CancelScope()

        async def call() -> None:
            with scope:
                say = partial(session.call_tool, "tool", {}, seconds(0.01) if timed_out else None)
                await outcome(lambda _: say(), session)
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            frames.append(await frame_of(from_client))
            if not timed_out:
                scope.cancel()
            # Nobody reads: it ends all the same, far sooner than any clock of ours.
            with anyio.fail_after(2):
                await ended.wait()
        # And the server hears of it as soon as it listens again.
        frames.append(await frame_of(from_client))
        assert [frame["method"] for frame in frames] == ["tools/call", "notifications/cancelled"]
        assert frames[1]["params"]["requestId"] == frames[0]["id"]
        assert pending(session) == []


@only_line_1
async def test_leaving_the_session_does_not_wait_for_a_server_that_does_not_listen() -> None:
    before = anyio.get_running_tasks()
    with anyio.fail_after(2):
        async with unread("three functions") as (session, from_client, _), anyio.create_task_group() as tasks:
            tasks.start_soon(session.call_tool, "tool")
            await frame_of(from_client)
            tasks.cancel_scope.cancel()
    await settle(before)


class OnlySend:
    """A stream to write to with no more than the SDK asks of it, as other people's transports have them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, message: SessionMessage) -> None:
        await self._stream.send(message)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def is_cancelled_notification(message: SessionMessage) -> bool:
    frame: Any = message.message
    return "notifications/cancelled" in frame.model_dump_json()


class Breaks(OnlySend):
    """Fails to take one kind of message, in a way that no stream of anyio does."""

    async def send(self, message: SessionMessage) -> None:
        if is_cancelled_notification(message):
            raise OSError("the pipe is full of eels")
        await super().send(message)


class BreaksAtOnce(Breaks):
    """The same, of a stream that can be written to without awaiting."""

    def send_nowait(self, message: SessionMessage) -> None:
        if is_cancelled_notification(message):
            raise OSError("the pipe is full of eels")
        self._stream.send_nowait(message)


@pytest.mark.parametrize("timed_out", [False, True], ids=["cancelled", "timed out"])
# Line 2 writes the notification itself, and what that raises replaces the error, with and without this package.
@pytest.mark.parametrize("stream", [OnlySend, Breaks, BreaksAtOnce] if LINE_1 else [OnlySend])
@pytest.mark.parametrize("name", LAYERS)
async def test_any_stream_that_the_sdk_can_write_to_will_do(name: str, stream: Any, timed_out: bool) -> None:
    async with wire() as ((read, write), server):
        to_enter, session = LAYERS[name](ClientSession(read, stream(write)))
        with anyio.fail_after(30):
            async with to_enter:
                if timed_out:
                    server.answers["tools/call"] = never
                    failed = await outcome(lambda session: session.call_tool("tool", {}, seconds(0.01)), session)
                    assert failed[1][0] == (408 if LINE_1 else -32001)
                else:
                    async with under_way(session, server, CALLS["call_tool: meta"], "tools/call"):
                        pass
                if stream is OnlySend:
                    await server.wait_for("notifications/cancelled")
                await all_heard(session, server)
        assert len(told_of(server)) == (stream is OnlySend)
        assert pending(session) == []


# The minute is slept in slices: a signal that comes just before asyncio begins to wait is not heard before its loop
# turns again.
LEFT = """
import anyio, sys
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp_intercept import connect, intercept

how, attached, backend = sys.argv[1:4]
command, *arguments = sys.argv[4:]

async def use(session):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.call_tool, "slow", {"seconds": 60})
        await anyio.wait_all_tasks_blocked()
        if how == "Ctrl-C":
            print("ready", flush=True)
            for _ in range(1200):
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    if how == "an error":
        raise KeyError("mine")

async def main():
    if attached == "connect":
        async with connect([command, *arguments]) as session:
            await use(session)
    else:
        parameters = StdioServerParameters(command=command, args=arguments)
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as inner:
            session = intercept(inner)
            await session.initialize()
            await use(session)

try:
    anyio.run(main, backend=backend)
    print("clean")
except BaseException as error:
    while len(getattr(error, "exceptions", ())) == 1:
        error = error.exceptions[0]
    print(type(error).__name__)
"""


@pytest.mark.parametrize("attached", ["connect", "intercept"])
@pytest.mark.parametrize(
    ("how", "ends"), [("at once", "clean"), ("an error", "KeyError"), ("Ctrl-C", "KeyboardInterrupt")]
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_leaving_right_after_a_call_was_given_up_ends_as_without_it(
    backend: str, how: str, ends: str, attached: str
) -> None:
    """The server of line 1 answers such a call, when nobody reads any more."""
    command = [sys.executable, "-W", "ignore", "-c", LEFT, how, attached, backend, *STDIO]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        if how == "Ctrl-C":
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert output.strip() == ends


if LINE_1:

    class OnlyRead:
        """A stream to read from with no more than the SDK asks of it."""

        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *error: object) -> None:
            await self._stream.aclose()

        def __aiter__(self) -> Any:
            return self._stream

    async def test_a_call_can_be_given_up_whatever_the_session_reads_from() -> None:
        async with wire() as ((read, write), server):
            server.answers["tools/call"] = never
            stream: Any = OnlyRead(read)
            async with ClientSession(stream, write) as session:
                with anyio.move_on_after(0.05):
                    await intercept(session).call_tool("tool")
                await server.wait_for("notifications/cancelled")

    async def test_who_waits_to_be_read_when_the_session_is_left_is_let_go() -> None:
        reading = anyio.Event()

        async def hold(params: Any) -> None:
            reading.set()
            await anyio.sleep_forever()

        said = 0

        async def say(server: WireServer) -> None:
            nonlocal said
            for _ in range(4):
                await server.notify("notifications/message", {"level": "info", "data": 1})
                said += 1

        with anyio.fail_after(30):
            async with wire() as (streams, server), anyio.create_task_group() as tasks:
                server.answers["tools/call"] = never
                async with ClientSession(*streams, logging_callback=hold) as session:
                    with anyio.move_on_after(0.05):
                        await intercept(session).call_tool("tool")
                    tasks.start_soon(say, server)
                    await reading.wait()
                    await anyio.wait_all_tasks_blocked()
                    assert said < 4
        assert said == 4
