"""`intercept_all()`: which sessions it reaches and what of each, and that nothing of it is left afterwards."""

# How users override methods is part of what is tested.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

import anyio
import anyio.from_thread
import mcp.types
import pytest
from anyio.lowlevel import checkpoint
from mcp import ClientSession, ClientSessionGroup, StdioServerParameters
from mcp.client.streamable_http import StreamableHTTPTransport, streamable_http_client

from mcp_intercept import (
    AnyMiddleware,
    Middleware,
    MiddlewareError,
    MiddlewareManager,
    connect,
    intercept,
    intercept_all,
)
from mcp_intercept._incoming import Incoming
from mcp_intercept.errors import InterceptError, SessionStateError
from tests.server import STDIO, http_server, make_server
from tests.wire import LINE_1, Frame, WireServer, never, wire

httpx: Any = import_module("httpx" if LINE_1 else "httpx2")
subscriptions: Any = None if LINE_1 else import_module("mcp.client.subscriptions")

pytestmark = pytest.mark.anyio

T: Any = mcp.types
"""The models of the installed line; untyped, as the two lines differ."""

CHANGED: Any = T.RootsListChangedNotification()
HANDSHAKE = ["initialize", "notifications/initialized"]
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

# What the calls of a session change in its state and in its dispatcher's.
OF_CALLS = {
    "_request_id",
    "_next_id",
    "_tool_output_schemas",
    "_tool_output_validators",
    "_x_mcp_header_maps",
    "_experimental_features",
}


def layer(log: list[str], name: str = "") -> AnyMiddleware:
    """A middleware that logs each message as it passes, `name>method` or, from the server, `name<method`."""

    async def note(context: Any, call_next: Any) -> Any:
        log.append(f"{name}{'>' if context.direction == 'outgoing' else '<'}{context.method}")
        return await call_next(context)

    return note


@asynccontextmanager
async def session_on(
    make: Callable[..., ClientSession] = ClientSession, **options: Any
) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A session that somebody made and entered, and its server; nothing was sent yet."""
    async with wire() as (streams, server), make(*streams, **options) as session:
        yield session, server


@contextmanager
def unchanged(*sessions: Any, but: Iterable[str] = ()) -> Generator[None, None, None]:
    """Requires that afterwards classes and sessions have what they had before: the very same objects, and no more."""
    owners: list[Any] = [*ClientSession.__mro__[:-1], StreamableHTTPTransport, *sessions]
    if not LINE_1:
        dispatchers = [session.__dict__["_dispatcher"] for session in sessions]
        owners += [*dispatchers, *map(type, dispatchers)]
    before = [dict(vars(owner)) for owner in owners]
    yield
    absent = object()
    for owner, had in zip(owners, before, strict=True):
        has = vars(owner)
        changed = {name for name in {*had, *has} if had.get(name, absent) is not has.get(name, absent)}
        assert changed - OF_CALLS.union(but) == set(), type(owner)


def wrapped_by(manager: MiddlewareManager) -> set[Any]:
    """The live sessions of a manager, as whoever made them knows them."""
    sessions: set[Any] = manager.sessions
    return {session.client_session for session in sessions}


def answers(server: WireServer) -> list[Frame]:
    """What the client answered its server's requests."""
    return [frame for frame in server.frames if "method" not in frame]


async def ask(server: WireServer, method: str = "ping") -> Frame:
    """Send a request of the server's; the value is the client's answer."""
    count = len(answers(server))
    await server.send({"jsonrpc": "2.0", "id": 700 + count, "method": method, "params": {}})
    with anyio.fail_after(30):
        while len(answers(server)) == count:
            await checkpoint()
    return answers(server)[-1]


@pytest.fixture
def log() -> list[str]:
    return []


# Which sessions


async def test_a_session_made_inside_is_intercepted_from_its_handshake_on(log: list[str]) -> None:
    with intercept_all(layer(log)):
        async with session_on() as (session, server):
            await session.initialize()
            await session.send_ping()
            await session.send_notification(CHANGED)
            await server.wait_for(CHANGED.method)
            assert await ask(server) == {"jsonrpc": "2.0", "id": 700, "result": {}}
            sent = server.methods
    assert sent == [*HANDSHAKE, "ping", CHANGED.method]
    assert log == [*(f">{method}" for method in sent), "<ping"]


@pytest.mark.parametrize("is_entered", [False, True])
async def test_a_session_made_before_is_intercepted(is_entered: bool, log: list[str]) -> None:
    async with wire() as (streams, _), AsyncExitStack() as stack:
        session = ClientSession(*streams)
        if is_entered:
            await stack.enter_async_context(session)
        with intercept_all(layer(log)) as manager:
            if not is_entered:
                await stack.enter_async_context(session)
            await session.send_ping()
            assert session in wrapped_by(manager)
    assert log == [">ping"]


async def test_what_the_server_sends_to_an_idle_session_is_seen(log: list[str]) -> None:
    told: list[Any] = []
    arrived = anyio.Event()

    async def on_log(params: Any) -> None:
        told.append(params.data)
        arrived.set()

    async with session_on(logging_callback=on_log) as (session, server):
        await session.initialize()
        with unchanged(session), intercept_all(layer(log)):
            assert (await ask(server))["result"] == {}
            await server.notify("notifications/message", {"level": "info", "data": "hello"})
            with anyio.fail_after(30):
                await arrived.wait()
        await ask(server)
    assert log == ["<ping", "<notifications/message"]
    assert told == ["hello"]


class Through(ClientSession):
    """Overrides what it goes on to call."""

    async def send_request(self, *args: Any, **kwargs: Any) -> Any:
        self.own.append("send_request")
        return await super().send_request(*args, **kwargs)

    async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
        self.own.append("call_tool")
        return await super().call_tool(*args, **kwargs)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.own: list[str] = []


class Aside(Through):
    """Overrides without `super()`."""

    async def send_request(self, request: Any, result_type: Any, *args: Any, **kwargs: Any) -> Any:
        self.own.append("send_request")
        return result_type.model_validate({"content": []})

    async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> Any:
        params = T.CallToolRequestParams(name=name)
        request = T.CallToolRequest(method="tools/call", params=params)
        return await self.send_request(T.ClientRequest(request) if LINE_1 else request, T.CallToolResult)


@pytest.mark.parametrize("is_made_inside", [True, False])
async def test_overrides_of_a_subclass_stay_in_force(is_made_inside: bool, log: list[str]) -> None:
    with ExitStack() as scopes:
        if is_made_inside:
            scopes.enter_context(intercept_all(layer(log)))
        async with session_on(Through) as (through, server), session_on(Aside) as (aside, nobody):
            scopes.enter_context(intercept_all(layer(log, "outer")))
            await through.call_tool("tool")
            await aside.call_tool("tool")
            assert through.own == ["call_tool", "send_request", "send_request"]  # the SDK asks for the list as well
            assert aside.own == ["send_request"]
            assert server.methods == ["tools/call", "tools/list"]
            assert nobody.frames == []
    called = [f"{name}>{method}" for method in ("tools/call", "tools/list", "tools/call") for name in ("outer", "")]
    assert log == (called if is_made_inside else [entry for entry in called if entry.startswith("outer")])


async def test_a_session_group_is_intercepted_from_its_handshake_on(log: list[str]) -> None:
    with intercept_all(layer(log)):
        with anyio.fail_after(30):
            async with ClientSessionGroup() as group:
                session = await group.connect_to_server(StdioServerParameters(command=STDIO[0], args=STDIO[1:]))
                with unchanged(session):
                    await group.call_tool("add", {"a": 1, "b": 2})
    assert log[:2] == [f">{method}" for method in HANDSHAKE]
    assert sorted(log[2:]) == [">prompts/list", ">resources/list", ">tools/call", ">tools/list"]


async def test_a_connection_of_ours_passes_both_chains(log: list[str]) -> None:
    with intercept_all(layer(log, "all")):
        async with wire() as (streams, server), connect(streams, layer(log, "own")) as session:
            await session.send_ping()
            await ask(server)
    assert log == [*(f"{name}>{method}" for method in [*HANDSHAKE, "ping"] for name in ("own", "all")),
                   "own<ping", "all<ping"]  # fmt: skip


@pytest.mark.skipif(not LINE_1, reason="SDK 2.x has no tasks")
async def test_tasks_are_intercepted(log: list[str]) -> None:
    async with session_on() as (session, server):
        server.answers["tasks/list"] = no_tasks
        with unchanged(session), intercept_all(layer(log)):
            await session.experimental.list_tasks()
        await session.experimental.list_tasks()
    assert log == [">tasks/list"]


async def no_tasks(frame: Frame) -> Frame:
    return {"tasks": []}


if not LINE_1:
    from mcp import Client

    @pytest.mark.parametrize("is_wrapped", [False, True])
    @pytest.mark.parametrize("kind", ["auto", "legacy", "URL"])
    async def test_a_client_is_intercepted(kind: str, is_wrapped: bool, log: list[str]) -> None:
        with ExitStack() as stack:
            target = stack.enter_context(http_server()) if kind == "URL" else make_server()
            mode: Any = "legacy" if kind == "legacy" else "auto"
            stack.enter_context(intercept_all(layer(log, "all")))
            client = Client(target, mode=mode)
            with anyio.fail_after(30):
                async with intercept(client, layer(log, "own")) if is_wrapped else client as client:
                    await client.call_tool("add", {"a": 1, "b": 2})
        negotiation = HANDSHAKE if kind == "legacy" else ["server/discover"]
        names = ["own", "all"] if is_wrapped else ["all"]
        assert log == [f"{name}>{method}" for method in [*negotiation, "tools/call", "tools/list"] for name in names]

    @pytest.mark.parametrize("is_wrapped", [False, True])
    async def test_what_the_sdk_hands_to_its_dispatcher_is_intercepted(is_wrapped: bool, log: list[str]) -> None:
        async with session_on() as (inner, server):

            async def stream(frame: Frame) -> Frame:
                stamp = {"_meta": {SUBSCRIPTION_ID: frame["id"]}}
                asked = {"notifications": frame["params"]["notifications"]}
                await server.notify("notifications/subscriptions/acknowledged", {**asked, **stamp})
                await server.notify("notifications/tools/list_changed", stamp)
                return {"resultType": "complete", **stamp}

            server.answers["subscriptions/listen"] = stream
            with intercept_all(layer(log, "all")) as manager:
                session = intercept(inner, layer(log, "own")) if is_wrapped else inner
                await session.discover()
                with anyio.fail_after(30):
                    async with subscriptions.listen(session, tools_list_changed=True) as subscription:
                        assert [type(event).__name__ async for event in subscription] == ["ToolsListChanged"]
                assert inner in wrapped_by(manager)
        names = ["own", "all"] if is_wrapped else ["all"]
        outgoing = ["server/discover", "subscriptions/listen"]
        assert [entry for entry in log if ">" in entry] == [f"{name}>{method}" for method in outgoing for name in names]
        for method in ("subscriptions/acknowledged", "tools/list_changed"):
            assert [entry for entry in log if entry.endswith(method)] == [f"{n}<notifications/{method}" for n in names]


# Ids, and what is held


async def test_each_session_has_an_id_of_its_own_and_the_live_ones_are_known(log: list[str]) -> None:
    ids: list[str] = []
    kept: list[Any] = []

    async def note(context: Any, call_next: Any) -> Any:
        ids.append(context.connection_id)
        kept.append(context.session)
        assert context.session.connector_id == context.connection_id
        return await call_next(context)

    with intercept_all(note) as manager:
        async with session_on() as (one, _), session_on() as (two, _):
            for session in (one, two, one):
                await session.send_ping()
            assert {one, two} <= wrapped_by(manager)
        assert {one, two} & wrapped_by(manager) == set()
        async with session_on() as (three, _):
            await three.send_ping()
            assert three in wrapped_by(manager)
            with intercept_all(note) as another:
                await three.send_ping()
            assert another.sessions == set()
    assert ids[0] == ids[2]
    assert len(set(ids)) == 4
    assert all(name.startswith("mcp-") for name in ids)
    assert manager.sessions == set()


async def test_a_dropped_session_is_garbage(log: list[str]) -> None:
    async with wire() as (streams, _):
        before = ClientSession(*streams)  # the last one found, too
        gone = [weakref.ref(before)]
        with intercept_all(layer(log)) as manager, intercept_all(manager):
            del before
            gone += [weakref.ref(ClientSession(*streams)) for _ in range(1000)]
            async with session_on() as (session, _):
                await session.send_ping()
                gone.append(weakref.ref(session))
            del session
            gc.collect()
            assert [reference for reference in gone if reference() is not None] == []
    assert log == [">ping", ">ping"]


# What is left afterwards


class BoomError(Exception):
    pass


def leave_by_exception(scope: AbstractContextManager[Any]) -> None:
    with pytest.raises(BoomError), scope:
        raise BoomError


def leave_by_cancellation(scope: AbstractContextManager[Any]) -> None:
    async def run() -> None:
        with anyio.CancelScope() as cancel, scope:
            cancel.cancel()
            await anyio.sleep_forever()

    anyio.run(run)


def leave_by_closing_a_generator(scope: AbstractContextManager[Any]) -> None:
    def inside() -> Generator[None, None, None]:
        with scope:
            yield

    generator = inside()
    next(generator)
    generator.close()


def leave_by_dropping(scope: AbstractContextManager[Any]) -> None:
    scope.__enter__()  # and nobody holds it any more


LEAVE = [leave_by_exception, leave_by_cancellation, leave_by_closing_a_generator, leave_by_dropping]


@pytest.mark.parametrize("leave", LEAVE)
def test_however_the_scope_is_left_all_is_as_before(leave: Callable[[Any], None], log: list[str]) -> None:
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(session_on()) as made:
        session, server = made
        portal.call(session.initialize)
        with unchanged(session):
            leave(intercept_all(layer(log)))
        portal.call(session.send_ping)
        assert server.methods == [*HANDSHAKE, "ping"]
    assert log == []


@pytest.mark.parametrize("wrapped", ["never", "before", "inside"])
async def test_afterwards_a_session_that_is_still_alive_is_as_before(wrapped: str, log: list[str]) -> None:
    async def set_headers(context: Any, call_next: Any) -> Any:
        context.options.headers = {"x-key": "1"}
        return await call_next(context)

    async with session_on() as (session, server):
        await session.initialize()
        with unchanged(session):
            wrapper = intercept(session) if wrapped == "before" else session
            # What puts headers on requests stays for the wrapper.
            with (
                unchanged(session, but={"_stamp"} if wrapper is not session else ()),
                intercept_all(layer(log), set_headers),
            ):
                await session.send_ping()
                await wrapper.send_notification(CHANGED)
                await ask(server)
            if wrapped == "inside":
                with intercept_all():
                    wrapper = intercept(session)
            del wrapper
        await session.send_ping()
        await ask(server)
    assert log == [">ping", f">{CHANGED.method}", "<ping"]


async def test_a_session_made_inside_is_a_bare_one_afterwards(log: list[str]) -> None:
    async with wire() as (streams, _), wire() as (others, _):
        bare = ClientSession(*streams)
        with unchanged(bare), intercept_all(layer(log)):
            session = ClientSession(*others)
        assert set(vars(session)) == set(vars(bare))
        if not LINE_1:
            assert set(vars(session._dispatcher)) == set(vars(bare._dispatcher))


# Several at once


async def test_an_inner_scope_is_the_outer_layer(log: list[str]) -> None:
    async with session_on() as (before, server):
        with unchanged(before), intercept_all(layer(log, "1")), intercept_all(layer(log, "2")):
            async with session_on() as (inside, other):
                for session, its in ((before, server), (inside, other)):
                    await session.send_ping()
                    await ask(its)
                    assert log == ["2>ping", "1>ping", "2<ping", "1<ping"]
                    log.clear()
    with intercept_all(layer(log, "1")):
        with intercept_all(layer(log, "2")):
            pass
        async with session_on() as made:
            await ping(*made)
    assert log == ["1>ping", "1<ping"]


async def test_a_message_on_its_way_goes_on_when_a_scope_further_in_is_left(log: list[str]) -> None:
    async def leave_inner_scope(context: Any, call_next: Any) -> Any:
        inner.close()
        return await call_next(context)

    async with session_on() as (session, server):
        for send in (session.send_ping, partial(ask, server)):
            with ExitStack() as inner, unchanged(session):
                inner.enter_context(intercept_all(layer(log, "1")))
                with intercept_all(layer(log, "2"), leave_inner_scope, layer(log, "3")):
                    answer = await send()
                    assert "error" not in answer
    assert log == ["2>ping", "3>ping", "2<ping", "3<ping"]


@pytest.mark.parametrize("first", [0, 1])
async def test_scopes_may_be_left_in_any_order(first: int, log: list[str]) -> None:
    scopes = [intercept_all(layer(log, "1")), intercept_all(layer(log, "2"))]
    async with session_on() as (session, server):
        with unchanged(session):
            for scope in scopes:
                scope.__enter__()
            await session.send_ping()
            for scope in (scopes.pop(first), *scopes):
                scope.__exit__(None, None, None)
                await session.send_ping()
                await ask(server)
    assert log == ["2>ping", "1>ping", *(["2>ping", "2<ping"] if first == 0 else ["1>ping", "1<ping"])]


async def test_one_manager_in_two_scopes_sees_each_message_once_in_each(log: list[str]) -> None:
    manager = MiddlewareManager([layer(log)])
    async with session_on() as (session, server):
        with unchanged(session), intercept_all(manager) as same, intercept_all(manager):
            assert same is manager
            await session.send_ping()
            await ask(server)
        with intercept_all(manager):  # and again
            await session.send_ping()
        await session.send_ping()
    assert log == [">ping", ">ping", "<ping", "<ping", ">ping"]


@pytest.mark.parametrize("when", ["before", "inside"])
async def test_a_wrapper_passes_its_own_chain_first_and_may_be_dropped(when: str, log: list[str]) -> None:
    async with session_on() as (session, server):
        with ExitStack() as scopes, unchanged(session):
            wrapper = intercept(session, layer(log, "own")) if when == "before" else None
            with intercept_all(layer(log, "1")), intercept_all(layer(log, "2")):
                wrapper = wrapper or intercept(session, layer(log, "own"))
                await wrapper.send_ping()
                await ask(server)
                assert log == ["own>ping", "2>ping", "1>ping", "own<ping", "2<ping", "1<ping"]
                log.clear()
                del wrapper
                await session.send_ping()
                await ask(server)
                assert log == ["2>ping", "1>ping", "2<ping", "1<ping"]
                wrapper = intercept(session, layer(log, "own"))
            log.clear()
            await wrapper.send_ping()
            await ask(server)
            del wrapper
            scopes.close()
    assert log == ["own>ping", "own<ping"]


async def test_a_call_on_its_way_stays_in_its_chain_when_the_scope_is_left(log: list[str]) -> None:
    async def end(context: Any, call_next: Any) -> Any:
        result = await call_next(context)
        log.append("end")
        return result

    async with session_on() as (session, server), anyio.create_task_group() as tasks:
        server.answers["ping"] = never
        with unchanged(session):
            with intercept_all(end, layer(log)):
                tasks.start_soon(session.send_ping)
                frame = await server.wait_for("ping")
            await session.list_prompts()
            await server.reply(frame["id"], {})
            with anyio.fail_after(30):
                while "end" not in log:
                    await checkpoint()
    assert log == [">ping", "end"]


async def test_a_question_of_the_server_stays_in_its_chain_when_the_scope_is_left(log: list[str]) -> None:
    left = anyio.Event()
    asked = anyio.Event()

    async def hold(context: Any, call_next: Any) -> Any:
        asked.set()
        await left.wait()
        result = await call_next(context)
        log.append("end")
        return result

    async def roots(context: Any) -> Any:
        return T.ListRootsResult(roots=[])

    async with session_on(list_roots_callback=roots) as (session, server), anyio.create_task_group() as tasks:
        await session.initialize()
        with unchanged(session):
            with intercept_all(hold):
                tasks.start_soon(ask, server, "roots/list")
                with anyio.fail_after(30):
                    await asked.wait()
            left.set()
            with anyio.fail_after(30):
                while not answers(server):
                    await checkpoint()
        assert answers(server)[0]["result"] == {"roots": []}
        await ask(server)
    assert log == ["end"]


# Threads


class Slotted(ClientSession):
    """Cannot be wrapped."""

    __slots__ = ("own",)


@contextmanager
def loops(*backends: str) -> Generator[list[Any], None, None]:
    """Event loops in threads of their own, each with a running session: portal, session and server of each."""
    with ExitStack() as stack:
        made: list[Any] = []
        for backend in backends:
            portal = stack.enter_context(anyio.from_thread.start_blocking_portal(backend))
            made.append((portal, *stack.enter_context(portal.wrap_async_context_manager(session_on()))))
        yield made


async def ping(session: Any, server: WireServer, times: int = 1) -> int:
    """Ping both ways; the value is how often."""
    with anyio.fail_after(60):
        for _ in range(times):
            await session.send_ping()
            await ask(server)
    return times


def test_sessions_in_event_loops_of_other_threads_are_intercepted(log: list[str]) -> None:
    with loops("asyncio", "trio") as made:
        for portal, session, server in made:
            with unchanged(session):
                with intercept_all(layer(log)):
                    portal.call(ping, session, server)
                    with portal.wrap_async_context_manager(session_on()) as (another, its):
                        portal.call(ping, another, its)
                portal.call(ping, session, server)
    assert log == [">ping", "<ping", ">ping", "<ping"] * 2


def test_the_live_sessions_of_other_threads_are_known() -> None:
    with loops("asyncio", "trio") as made, intercept_all() as manager:
        assert {session for _, session, _ in made} <= wrapped_by(manager)


def test_opening_a_scope_does_not_disturb_what_other_threads_are_making() -> None:
    opening, made = threading.Event(), threading.Event()

    class Slow(logging.Filter):
        """Holds up the scope where it looks at the sessions."""

        def filter(self, record: logging.LogRecord) -> bool:
            opening.set()
            return not made.wait(10)

    def open_scope() -> None:
        with intercept_all():
            pass

    def count() -> Iterable[int]:
        yield 1
        thread.start()
        assert opening.wait(10)
        yield 2

    thread = threading.Thread(target=open_scope)
    slow = Slow()
    logger = logging.getLogger("mcp_intercept")
    logger.addFilter(slow)
    try:
        with anyio.from_thread.start_blocking_portal() as portal:
            with portal.wrap_async_context_manager(session_on(Slotted)):
                # Python makes it of one that is too long, which works only as long as nobody else knows of it.
                assert tuple(count()) == (1, 2)
    finally:
        made.set()
        thread.join(10)
        logger.removeFilter(slow)


async def test_a_message_that_comes_while_a_session_is_wrapped_finds_it_whole(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    join = Incoming.join
    found: list[tuple[str, Any]] = []

    def joined(session: ClientSession, receiver: Any) -> Incoming:
        incoming = join(session, receiver)
        # As from another thread, in which the session lives.
        context = receiver.context_of_incoming("ping", None, "request", 1, None)
        found.append((context.connection_id, context.session.client_session))
        return incoming

    monkeypatch.setattr(Incoming, "join", joined)
    async with session_on() as (session, _):
        wrapper = intercept(session, layer(log), connection_id="here")
        assert found == [("here", session)]
        assert wrapper.client_session is session


def test_scopes_open_and_close_in_many_threads_while_others_call(log: list[str]) -> None:
    is_over = threading.Event()
    interval = sys.getswitchinterval()

    def come_and_go() -> None:
        while not is_over.is_set():
            with intercept_all(layer(log)) as manager, intercept_all(manager):
                pass

    async def make(times: int) -> None:
        for _ in range(times):
            async with session_on() as made:
                await ping(*made)

    with loops("asyncio", "trio") as made, ThreadPoolExecutor(8) as threads:
        with unchanged(*(session for _, session, _ in made)):
            sys.setswitchinterval(1e-5)
            try:
                comings = [threads.submit(come_and_go) for _ in range(8)]
                calls = [portal.start_task_soon(ping, session, server, 50) for portal, session, server in made]
                makings = [portal.start_task_soon(make, 5) for portal, _, _ in made]
                assert [call.result(90) for call in calls] == [50, 50]
                for making in makings:
                    making.result(90)
            finally:
                sys.setswitchinterval(interval)
                is_over.set()
            for coming in comings:
                coming.result(90)
        log.clear()
        for portal, session, server in made:
            portal.call(ping, session, server)
    assert log == []


# Faults


async def stop(context: Any, call_next: Any) -> Any:
    raise BoomError


@pytest.mark.parametrize(
    "wrong", [[Middleware], [stop] * 101, [MiddlewareManager(), stop]], ids=["class", "101", "both"]
)
async def test_what_is_no_chain_is_refused_before_anything_is_patched(wrong: list[Any]) -> None:
    async with session_on() as (session, server):
        with unchanged(session):
            with pytest.raises(MiddlewareError), intercept_all(*wrong):
                pytest.fail("it opened")
            await ping(session, server)


async def test_a_session_that_cannot_be_wrapped_is_left_alone(log: list[str], caplog: pytest.LogCaptureFixture) -> None:
    async with session_on(Slotted) as before:
        with unchanged(before[0]), intercept_all(layer(log)) as manager:
            async with session_on(Slotted) as inside:
                with unchanged(before[0], inside[0]):
                    await ping(*before)
                    await ping(*inside)
                    assert {before[0], inside[0]} & wrapped_by(manager) == set()
    assert log == []
    assert [record.getMessage() for record in caplog.records] == ["a Slotted is not intercepted"] * 2


@pytest.mark.parametrize("when", ["before", "inside", "between"])
async def test_a_constructor_that_somebody_else_patches_goes_on_working(
    when: str, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ping_a_new_one() -> list[str]:
        log.clear()
        async with session_on() as made:
            await ping(*made)
        return list(log)

    def patch() -> None:
        init: Any = vars(ClientSession)["__init__"]

        def patched(self: Any, *args: Any, **kwargs: Any) -> None:
            log.append("patched")
            init(self, *args, **kwargs)

        monkeypatch.setattr(ClientSession, "__init__", patched)

    with unchanged():
        if when == "before":
            patch()
        before: Any = vars(ClientSession)["__init__"]
        with intercept_all(layer(log, "1")):
            if when != "before":
                patch()
            theirs = vars(ClientSession)["__init__"]
            if when == "between":
                with intercept_all(layer(log, "2")):
                    assert await ping_a_new_one() == ["patched", "2>ping", "1>ping", "2<ping", "1<ping"]
            assert await ping_a_new_one() == ["patched", "1>ping", "1<ping"]
        assert await ping_a_new_one() == ["patched"]
        assert vars(ClientSession)["__init__"] is (before if when == "before" else theirs)
        with intercept_all(layer(log)):
            assert await ping_a_new_one() == ["patched", ">ping", "<ping"]
        assert await ping_a_new_one() == ["patched"]
        assert vars(ClientSession)["__init__"] is (before if when == "before" else theirs)
        monkeypatch.undo()
        with intercept_all(layer(log)):
            assert await ping_a_new_one() == [">ping", "<ping"]


class Delegating:
    """A descriptor that is another object each time it is looked up on the class, as those of `wrapt` are."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return partial(self.function, instance) if instance is not None else Delegating(self.function)


async def test_a_constructor_may_be_any_descriptor(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientSession, "__init__", Delegating(ClientSession.__init__))
    with unchanged(), intercept_all(layer(log)):
        async with session_on() as made:
            await ping(*made)
    assert log == [">ping", "<ping"]


@pytest.mark.parametrize("when", ["before", "inside"])
@pytest.mark.parametrize("where", ["session", "class"])
async def test_a_method_that_somebody_else_patches_goes_on_working(when: str, where: str, log: list[str]) -> None:
    async with session_on() as (session, server):
        target: Any = session if where == "session" else ClientSession
        send: Any = target.send_request

        async def patched(*args: Any, **kwargs: Any) -> Any:
            log.append("patched")
            return await send(*args, **kwargs)

        with pytest.MonkeyPatch.context() as monkeypatch, ExitStack() as stack:
            if when == "before":
                monkeypatch.setattr(target, "send_request", patched)
                stack.enter_context(unchanged(session))
            with intercept_all(layer(log)):
                if when == "inside":
                    send = target.send_request
                    monkeypatch.setattr(target, "send_request", patched)
                await session.send_ping()
                assert sorted(log) == [">ping", "patched"]
            log.clear()
            await session.send_ping()
            with intercept_all(layer(log)):
                await session.send_ping()
            assert sorted(log) == [">ping", "patched", "patched"]
        log.clear()
        await ping(session, server)
        assert log == []


# What is not changed


async def converse(session: Any, server: WireServer) -> list[Any]:
    """Say something of everything; the value is what came of it, exceptions included."""
    came: list[Any] = []
    is_told = anyio.Event()

    async def say(call: Callable[[], Any]) -> None:
        try:
            came.append(await call())
        except Exception as error:
            came.append((type(error), str(error), getattr(error, "error", None)))

    async def step(frame: Frame) -> Frame:
        token = frame["params"]["_meta"]["progressToken"]
        await server.notify("notifications/progress", {"progressToken": token, "progress": 1, "total": 2})
        with anyio.fail_after(30):
            await is_told.wait()
        return {"content": []}

    async def on_progress(*progress: Any) -> None:
        came.append(progress)
        is_told.set()

    async def refuse(frame: Frame) -> None:
        await server.refuse(frame["id"], -32000, "no such prompt")

    server.answers.update({"tools/call": step, "prompts/get": refuse, "resources/list": never, "prompts/list": never})
    no_time: Any = timedelta(seconds=0.01) if LINE_1 else 0.01
    slow = T.ListPromptsRequest(method="prompts/list")
    slow = T.ClientRequest(slow) if LINE_1 else slow
    await say(session.initialize)
    await say(session.send_ping)
    await say(session.list_tools)
    await say(partial(session.call_tool, "tool", progress_callback=on_progress))
    await say(partial(session.get_prompt, "nothing"))
    await say(partial(session.send_request, slow, T.ListPromptsResult, no_time))
    await say(partial(session.send_notification, CHANGED))
    await say(partial(session.send_notification, None))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(say, session.list_resources)
        await server.wait_for("resources/list")
        tasks.cancel_scope.cancel()
    await say(session.send_ping)
    return came


@pytest.mark.parametrize("way", ["made inside", "made before", "two scopes", "wrapped before", "wrapped inside"])
async def test_what_is_said_and_what_comes_of_it_is_as_without(way: str, log: list[str]) -> None:
    async with session_on() as (session, server):
        bare = await converse(session, server)
        frames = server.frames
    with ExitStack() as scopes:
        if way in ("made inside", "two scopes"):
            scopes.enter_context(intercept_all(layer(log)))
        async with session_on() as (session, server):
            if way == "wrapped before":
                session = intercept(session, layer([]))
            if way != "made inside":
                scopes.enter_context(intercept_all(layer(log)))
            if way == "wrapped inside":
                session = intercept(session, layer([]))
            assert await converse(session, server) == bare
            if LINE_1:
                # The bare one forgets them, see the README.
                reasons = [(frame["id"], server.sent(frame["method"])) for frame in frames if "id" in frame]
                cancelled = [frame["params"]["requestId"] for frame in server.sent("notifications/cancelled")]
                assert cancelled == [
                    request_id
                    for request_id, sent in reasons
                    if sent[0]["method"] in ("prompts/list", "resources/list")
                ]
                assert [frame for frame in server.frames if frame.get("method") != "notifications/cancelled"] == frames
            else:
                assert server.frames == frames
    assert log


# Headers of a call


@pytest.fixture(scope="module")
def url() -> Generator[str, None, None]:
    with http_server() as url:
        yield url


# What the SDK puts on each request that follows the negotiation.
STAMPED = {
    "initialize": ("Accept", "content-type", "Host", "MCP-Protocol-Version", "mcp-session-id"),
    "discover": ("Accept", "content-type", "Host", "MCP-Protocol-Version", "mcp-method"),
}
NEGOTIATE = ["initialize"] if LINE_1 else [*STAMPED]
Requests = list[tuple[Frame, Any]]
NO_LIMIT = AsyncExitStack()


def label(names: Iterable[str]) -> AnyMiddleware:
    """Labels the HTTP request of each call, and tries to take the headers `names` for it."""

    async def set_headers(context: Any, call_next: Any) -> Any:
        text = context.params.arguments["text"] if context.method == "tools/call" else context.method
        context.options.headers = {"x-call": text, **dict.fromkeys(names, "mine")}
        await checkpoint()
        return await call_next(context)

    return set_headers


@asynccontextmanager
async def http_client(requests: Requests) -> AsyncGenerator[Any, None]:
    """An HTTP client of the user's own. What it sends, and with which headers, is noted."""

    async def note(request: Any) -> None:
        if request.method == "POST":
            requests.append((json.loads(request.content), request.headers))

    client = httpx.AsyncClient()
    async with client:
        client.event_hooks = {"request": [note], "response": []}
        yield client


@asynccontextmanager
async def http_session(url: str, requests: Requests, negotiate: str) -> AsyncGenerator[Any, None]:
    async with http_client(requests) as client, streamable_http_client(url, http_client=client) as streams:
        async with ClientSession(streams[0], streams[1]) as session:
            await getattr(session, negotiate)()
            yield session


async def echo(session: Any, text: str, limit: Any = NO_LIMIT) -> None:
    async with limit:
        assert (await session.call_tool("echo", {"text": text})).content[0].text == text


def stamped(requests: Requests, names: Iterable[str]) -> list[tuple[str, list[str | None]]]:
    """What the SDK has put on each request. Each connection has a session id of its own."""
    own = [name for name in names if name != "mcp-session-id"]
    return [(frame["method"], [headers.get(name) for name in own]) for frame, headers in requests]


@pytest.mark.parametrize("is_opened_inside", [True] if LINE_1 else [True, False])
@pytest.mark.parametrize("negotiate", NEGOTIATE)
async def test_headers_of_a_call_are_on_its_request_only(url: str, negotiate: str, is_opened_inside: bool) -> None:
    names, texts = STAMPED[negotiate], [str(number) for number in range(20)]
    bare: Requests = []
    requests: Requests = []
    manager = MiddlewareManager()
    with anyio.fail_after(60), ExitStack() as scope:
        async with http_session(url, bare, negotiate) as session:
            await session.list_tools()
            await echo(session, "bare")
        if is_opened_inside:
            scope.enter_context(intercept_all(manager))
        async with http_session(url, requests, negotiate) as session:
            await session.list_tools()
            requests.clear()
            with unchanged(session):
                with intercept_all(manager):
                    undo = manager.add_middleware(label(names))
                    limit = anyio.Semaphore(1 if LINE_1 else 20)  # line 1 itself hangs on trio with more
                    async with anyio.create_task_group() as tasks:
                        for text in texts:
                            tasks.start_soon(echo, session, text, limit)
                    await session.list_tools()
                undo()
                await echo(session, "bare again")
    labels = [
        (headers.get("x-call"), frame.get("params", {}).get("arguments", {}).get("text")) for frame, headers in requests
    ]
    assert sorted(labels[:-2]) == sorted((text, text) for text in texts)
    assert labels[-2:] == [("tools/list", None), (None, "bare again")]
    assert all(entry in stamped(bare, names) for entry in stamped(requests, names))
    assert all(headers.get("mcp-session-id") != "mine" for _, headers in requests)


@pytest.mark.parametrize("negotiate", NEGOTIATE)
async def test_headers_of_the_negotiation_leave_those_of_the_protocol(url: str, negotiate: str) -> None:
    names = STAMPED[negotiate][: 3 if negotiate == "initialize" else 5]
    bare: Requests = []
    requests: Requests = []
    with anyio.fail_after(60):
        async with http_session(url, bare, negotiate):
            pass
        with intercept_all(label(names)):
            async with http_session(url, requests, negotiate):
                pass
    assert requests[0][1]["x-call"] == requests[0][0]["method"]
    assert stamped(requests[:1], names) == stamped(bare[:1], names)


@pytest.mark.skipif(not LINE_1, reason="SDK 2.x sends them")
async def test_headers_of_a_call_that_cannot_be_sent_are_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mcp_intercept")
    requests: Requests = []
    with anyio.fail_after(60):
        async with http_session(url, requests, "initialize") as session:
            await session.list_tools()
            with intercept_all(label(STAMPED["initialize"])):
                await echo(session, "text")
    assert all("x-call" not in headers and "mine" not in headers.values() for _, headers in requests)
    assert [message for message in caplog.messages if message.startswith("headers of a call are not sent")]


async def test_headers_of_a_call_over_a_connection_of_ours_are_sent(url: str) -> None:
    requests: Requests = []
    with anyio.fail_after(60), intercept_all():
        async with http_client(requests) as client, connect(url, label(()), http_client=client) as session:
            await session.list_tools()
            await echo(session, "text")
    sent = [(frame["method"], headers.get("x-call")) for frame, headers in requests]
    assert sent == [
        ("initialize", "initialize"),
        (HANDSHAKE[1], None),
        ("tools/list", "tools/list"),
        ("tools/call", "text"),
    ]


def test_what_somebody_else_puts_over_the_http_transport_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def theirs(*args: Any) -> None:
        raise NotImplementedError

    with intercept_all():
        monkeypatch.setattr(StreamableHTTPTransport, "post_writer", theirs)
    assert StreamableHTTPTransport.post_writer is theirs


async def test_it_decorates_functions_and_works_as_an_async_context_manager() -> None:
    manager = MiddlewareManager()

    @intercept_all(manager)
    async def agent() -> str:
        async with wire() as (streams, _), ClientSession(*streams) as session:
            await session.send_ping()
        return "done"

    @intercept_all(manager)
    def opens() -> bool:
        return bool(vars(ClientSession)["__init__"])

    with manager.capture() as exchanges:
        assert await agent() == "done"
        assert opens()
        async with intercept_all(manager) as given, wire() as (streams, _), ClientSession(*streams) as session:
            assert given is manager
            await session.send_ping()
    assert [exchange.context.method for exchange in exchanges] == ["ping", "ping"]
    assert (agent.__name__, opens.__name__) == ("agent", "opens")


def test_what_cannot_work_is_refused_with_the_way_out() -> None:
    def steps() -> Iterable[int]:
        yield 1

    with pytest.raises(InterceptError, match=r"steps is a generator; write `with intercept_all"):
        intercept_all()(steps)
    twice = intercept_all()
    with twice, pytest.raises(SessionStateError, match="open already"), twice:
        pass
    with twice:
        assert "open" in repr(twice)
    assert "open" not in repr(twice)
    with pytest.raises(MiddlewareError):
        intercept_all(5)  # type: ignore[arg-type]  # at once, not when it is opened
