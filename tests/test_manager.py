"""`MiddlewareManager`: its list, its observers, its sessions, and calls of one's own."""

from __future__ import annotations

import functools
import gc
import logging
import re
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.to_thread
import mcp.types as types
import pytest
from mcp import ClientSession

from mcp_intercept import (
    AnyMiddleware,
    CallbackClientSession,
    Middleware,
    MiddlewareContext,
    MiddlewareError,
    MiddlewareManager,
    NextFunctionT,
    connect,
    hook,
    intercept,
)
from mcp_intercept.errors import BroadcastError, SessionStateError
from tests.wire import LINE_1, Frame, WireServer, wire

pytestmark = pytest.mark.anyio

RESULT = types.CallToolResult(content=[])
CHANGED: Any = types.RootsListChangedNotification()


def tool_call(method: str = "tools/call", kind: Any = "request") -> MiddlewareContext[Any]:
    return MiddlewareContext("id-1", method, None, "connection-1", 1.5, kind=kind)


async def answer(context: MiddlewareContext) -> types.CallToolResult:
    return RESULT


async def refuse(context: MiddlewareContext) -> Any:
    raise ValueError("no")


async def pass_on(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    return await call_next(context)


def named(name: str, log: list[str]) -> AnyMiddleware:
    """A layer that logs when a message passes it."""

    async def layer(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        log.append(name)
        return await call_next(context)

    return layer


async def passed(manager: MiddlewareManager, log: list[str]) -> list[str]:
    """The names of the layers that a new message passes."""
    log.clear()
    response = await manager.process_request(tool_call(), answer)
    assert response.result is RESULT
    return list(log)


@asynccontextmanager
async def session_of(
    manager: MiddlewareManager, name: str = "wire"
) -> AsyncGenerator[tuple[CallbackClientSession, WireServer], None]:
    with anyio.fail_after(60):
        async with wire() as (streams, server), connect(streams, manager, connection_id=name) as session:
            await server.wait_for("notifications/initialized")
            yield session, server


def unentered(manager: MiddlewareManager, name: str = "unentered") -> CallbackClientSession:
    """A wrapped session that nobody entered. What it would read from and write to it never touches."""
    streams: Any = anyio.create_memory_object_stream[Any](0)
    for stream in streams:
        stream.close()
    return intercept(ClientSession(streams[1], streams[0]), manager, connection_id=name)


# The list


async def test_added_middlewares_are_innermost_and_removed_ones_gone() -> None:
    log: list[str] = []
    first, second, third = (named(name, log) for name in ("first", "second", "third"))
    manager = MiddlewareManager([first])

    manager.add_middleware(second)
    manager.add_middleware(third)
    assert list(manager.middlewares) == [first, second, third]
    assert await passed(manager, log) == ["first", "second", "third"]

    manager.remove_middleware(second)
    assert list(manager.middlewares) == [first, third]
    assert await passed(manager, log) == ["first", "third"]


async def test_the_list_it_was_given_is_the_users_own() -> None:
    log: list[str] = []
    middlewares = [named("first", log)]
    manager = MiddlewareManager(middlewares)

    middlewares.append(named("second", log))

    assert await passed(manager, log) == ["first"]


def test_any_iterable_of_middlewares_will_do() -> None:
    assert MiddlewareManager().middlewares == ()
    assert MiddlewareManager(layer for layer in [pass_on, pass_on]).middlewares == (pass_on, pass_on)


async def test_undo_removes_its_own_entry_only_and_only_once() -> None:
    log: list[str] = []
    layer = named("twice", log)
    manager = MiddlewareManager([named("before", log)])
    undo_first = manager.add_middleware(layer)
    manager.add_middleware(named("between", log))
    undo_second = manager.add_middleware(layer)

    undo_first()
    undo_first()
    assert await passed(manager, log) == ["before", "between", "twice"]

    undo_second()
    undo_second()
    assert await passed(manager, log) == ["before", "between"]


async def test_undo_after_removing_does_nothing() -> None:
    log: list[str] = []
    layer = named("twice", log)
    manager = MiddlewareManager([layer])
    undo = manager.add_middleware(layer)

    manager.remove_middleware(layer)
    undo()

    assert await passed(manager, log) == ["twice"]


async def test_of_a_middleware_that_stands_twice_the_innermost_is_removed() -> None:
    log: list[str] = []
    twice, between = named("twice", log), named("between", log)
    manager = MiddlewareManager([twice, between, twice])

    manager.remove_middleware(twice)
    assert await passed(manager, log) == ["twice", "between"]
    manager.remove_middleware(twice)
    assert await passed(manager, log) == ["between"]


def test_removing_what_is_absent_is_an_error_that_names_it() -> None:
    manager = MiddlewareManager([pass_on])

    with pytest.raises(MiddlewareError) as caught:
        manager.remove_middleware(refuse)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - it is none

    assert str(caught.value) == (
        "middleware refuse is not in <MiddlewareManager [pass_on]>; give the very object that was added"
    )
    assert caught.value.middleware is refuse


class Counter(Middleware):
    def __init__(self) -> None:
        self.count = 0

    async def on_message(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await self.layer(context, call_next)

    async def layer(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        self.count += 1
        return await call_next(context)


def test_a_bound_method_can_be_removed_though_each_look_at_it_makes_a_new_object() -> None:
    counter = Counter()
    manager = MiddlewareManager([counter.layer])

    manager.remove_middleware(counter.layer)

    assert manager.middlewares == ()


def test_the_very_object_is_removed_and_not_one_that_equals_it() -> None:
    @dataclass
    class Equal:
        value: int

        async def __call__(self, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            raise NotImplementedError

    first, second = Equal(1), Equal(1)
    manager = MiddlewareManager([first, second])

    manager.remove_middleware(first)

    assert manager.middlewares[0] is second


async def test_a_change_takes_effect_for_the_next_call_of_a_live_session_and_not_for_one_under_way() -> None:
    log: list[str] = []
    manager = MiddlewareManager()

    def enclosing(name: str) -> AnyMiddleware:
        async def layer(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
            log.append(f"{name} >")
            result = await call_next(context)
            log.append(f"{name} <")
            return result

        return layer

    async with session_of(manager) as (session, server):
        release = anyio.Event()

        async def wait(frame: Frame) -> Frame:
            await release.wait()
            return {"prompts": []}

        server.answers["prompts/list"] = wait
        undo = manager.add_middleware(enclosing("old"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.list_prompts)
            await server.wait_for("prompts/list")
            undo()
            manager.add_middleware(enclosing("new"))
            release.set()
        await session.list_prompts()

    assert log == ["old >", "old <", "new >", "new <"]


def test_changes_from_many_threads_lose_nothing() -> None:
    def change(number: int) -> None:
        for _ in range(30):
            undo = manager.add_middleware(layers[number])
            undo_observer = manager.add_observer(observe)
            undo()
            undo_observer()
        manager.add_middleware(layers[number])
        manager.add_observer(observe)

    def observe(context: MiddlewareContext, response: Any) -> None:
        observed.append(response)

    observed: list[Any] = []
    layers = [named(str(number), []) for number in range(8)]
    manager = MiddlewareManager()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        sys.setswitchinterval(interval)
    anyio.run(manager.process_request, tool_call(), answer)

    assert len(manager.middlewares) == 8
    assert set(manager.middlewares) == set(layers)
    assert len(observed) == 8


def test_the_manager_shows_its_middlewares_by_name() -> None:
    assert repr(MiddlewareManager([pass_on, Counter()])) == "<MiddlewareManager [pass_on, Counter]>"


# What is no middleware


class HasNoCall:
    pass


async def takes_too_few(context: MiddlewareContext) -> Any:
    raise NotImplementedError


async def takes_too_many(context: MiddlewareContext, call_next: NextFunctionT, more: int) -> Any:
    raise NotImplementedError


async def wants_names(*, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    raise NotImplementedError


NO_MIDDLEWARES: list[tuple[Any, str]] = [
    (Counter, "Counter is a class; give an instance: Counter()"),
    (None, "no middleware; give a Middleware, or an async callable (context, call_next)"),
    (HasNoCall(), "no middleware; give a Middleware, or an async callable (context, call_next)"),
    (MiddlewareManager(), "no middleware; give a Middleware, or an async callable (context, call_next)"),
    (takes_too_few, "cannot be called with (context, call_next): too many positional arguments"),
    (takes_too_many, "cannot be called with (context, call_next): missing a required argument: 'more'"),
    (wants_names, "cannot be called with (context, call_next): too many positional arguments"),
]


@pytest.mark.parametrize(("no_middleware", "complaint"), NO_MIDDLEWARES)
def test_what_is_no_middleware_is_refused_before_any_message(no_middleware: Any, complaint: str) -> None:
    manager = MiddlewareManager([pass_on])

    with pytest.raises(MiddlewareError) as added:
        manager.add_middleware(no_middleware)
    with pytest.raises(MiddlewareError) as given:
        MiddlewareManager([pass_on, no_middleware])

    assert complaint in str(added.value)
    assert str(given.value) == str(added.value)
    assert added.value.middleware is no_middleware
    assert added.value.method is None
    assert manager.middlewares == (pass_on,)


def test_the_refusal_of_a_function_names_it_and_its_signature() -> None:
    with pytest.raises(MiddlewareError, match=r"^middleware takes_too_few\(context: .*\) -> .* cannot be called"):
        MiddlewareManager([takes_too_few])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType] - refused


def test_the_refusal_of_a_value_does_not_print_it() -> None:
    not_a_middleware: Any = {"token": "hunter2"}

    with pytest.raises(MiddlewareError) as caught:
        MiddlewareManager([not_a_middleware])

    assert "hunter2" not in str(caught.value)


async def sound_hook(self: Middleware, context: MiddlewareContext, call_next: NextFunctionT) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("name", ["on_message", "on_request", "on_notification", "on_call_tool", "on_progress", "on_x"])
def test_a_hook_that_cannot_be_called_is_refused_before_any_message(name: str) -> None:
    async def short(self: Middleware, context: MiddlewareContext) -> Any:
        raise NotImplementedError

    with_hook = type("WithHook", (Middleware,), {"on_x": hook("acme/x")(sound_hook)})
    middleware: Middleware = type("Short", (with_hook,), {name: short})()

    with pytest.raises(MiddlewareError, match=r"short.* cannot be called with \(context, call_next\)") as caught:
        MiddlewareManager([middleware])

    assert caught.value.middleware == getattr(middleware, name)


def test_a_callable_whose_signature_python_cannot_tell_is_taken_at_its_word() -> None:
    class Opaque:
        __signature__ = "none"

        async def __call__(self, *arguments: Any) -> Any:
            raise NotImplementedError

    opaque = Opaque()

    assert MiddlewareManager([opaque]).middlewares == (opaque,)


def test_a_hundred_middlewares_are_taken_and_one_more_is_refused() -> None:
    manager = MiddlewareManager([pass_on] * 100)

    with pytest.raises(MiddlewareError) as added:
        manager.add_middleware(pass_on)
    with pytest.raises(MiddlewareError) as given:
        MiddlewareManager([pass_on] * 101)

    assert str(added.value) == (
        "101 middlewares are more than the 100 that a chain can hold; merge some of them into one"
    )
    assert str(given.value) == str(added.value)
    assert len(manager.middlewares) == 100


# Observers


Seen = list[tuple[str, str]]


def watch(manager: MiddlewareManager, seen: Seen, name: str = "") -> Callable[[], None]:
    def observe(context: MiddlewareContext, response: Any) -> None:
        seen.append((name or context.method, response.outcome))

    return manager.add_observer(observe)


async def test_observers_see_every_message_and_how_it_ended() -> None:
    seen: Seen = []
    manager = MiddlewareManager()
    async with session_of(manager) as (session, server):
        watch(manager, seen)

        async def say_no(frame: Frame) -> None:
            await server.refuse(frame["id"], -32602, "no")

        server.answers["resources/list"] = say_no
        await session.list_prompts()
        await session.send_notification(CHANGED)
        with pytest.raises(Exception, match="no"):
            await session.list_resources()

    assert seen == [("prompts/list", "ok"), ("notifications/roots/list_changed", "ok"), ("resources/list", "error")]


async def test_an_observer_gets_the_context_that_reached_the_end_and_the_response_of_the_call() -> None:
    seen: list[Any] = []
    reached: list[Any] = []
    context = tool_call()

    async def copies(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        context.metadata["note"] = 1
        return await call_next(replace(context, params="other"))

    async def end(context: MiddlewareContext) -> Any:
        reached.append(context)
        return RESULT

    manager = MiddlewareManager([copies])
    manager.add_observer(lambda *both: seen.append(both))
    response = await manager.process_request(context, end)

    assert seen == [(reached[0], response)]
    assert seen[0][0].params == "other"
    assert response.request_id == "id-1" == reached[0].id
    assert response.metadata is context.metadata is reached[0].metadata


async def test_an_observer_of_a_retry_gets_the_context_that_reached_the_end_last() -> None:
    async def tries_a_copy_first(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        await call_next(replace(context, params="copy"))
        return await call_next(context)

    context = tool_call()
    manager = MiddlewareManager([tries_a_copy_first])
    with manager.capture() as exchanges:
        await manager.process_request(context, answer)

    assert exchanges[0].context is context


async def test_an_observers_context_and_response_belong_together_when_a_layer_passed_a_fresh_context() -> None:
    async def renews(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(MiddlewareContext("id-2", context.method, None, "connection-1", 1.5))

    manager = MiddlewareManager([renews])
    with manager.capture() as exchanges:
        await manager.process_request(tool_call(), answer)

    [(context, response)] = exchanges
    assert context.id == response.request_id
    assert context.metadata is response.metadata


async def test_an_observer_of_a_call_that_never_reached_the_end_gets_the_context_that_entered() -> None:
    seen: list[Any] = []
    context = tool_call()

    async def stops(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return RESULT

    manager = MiddlewareManager([stops])
    manager.add_observer(lambda *both: seen.append(both))
    response = await manager.process_request(context, refuse)

    assert seen == [(context, response)]


async def test_observers_are_called_in_the_order_they_were_added_until_they_are_undone() -> None:
    seen: Seen = []
    manager = MiddlewareManager()
    undo_first = watch(manager, seen, "first")
    watch(manager, seen, "second")

    await manager.process_request(tool_call(), answer)
    undo_first()
    undo_first()
    await manager.process_request(tool_call(), refuse)

    assert seen == [("first", "ok"), ("second", "ok"), ("second", "error")]


async def test_undo_of_an_observer_added_twice_removes_one_of_them() -> None:
    seen: list[Any] = []

    def observe(context: MiddlewareContext, response: Any) -> None:
        seen.append(response)

    manager = MiddlewareManager()
    undo = manager.add_observer(observe)
    manager.add_observer(observe)

    undo()
    await manager.process_request(tool_call(), answer)

    assert len(seen) == 1


def recurse() -> None:
    recurse()


def exhaust() -> None:
    raise MemoryError


def complain() -> None:
    raise ValueError("observer at fault")


@pytest.mark.parametrize("fault", [complain, recurse, exhaust])
@pytest.mark.parametrize("end", [answer, refuse])
async def test_an_observer_that_raises_is_logged_once_and_changes_nothing(
    fault: Callable[[], None], end: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Seen = []

    def broken(context: MiddlewareContext, response: Any) -> None:
        fault()

    manager = MiddlewareManager()
    manager.add_observer(broken)
    watch(manager, seen)

    responses = [await manager.process_request(tool_call(), end) for _ in range(3)]

    expected = "ok" if end is answer else "error"
    assert [response.outcome for response in responses] == [expected] * 3
    assert seen == [("tools/call", expected)] * 3
    [record] = caplog.records
    assert (record.name, record.levelno) == ("mcp_intercept", logging.ERROR)
    assert "broken failed in tools/call; the message is not affected" in record.getMessage()
    assert record.exc_info is not None
    assert fault.__name__ in (record.exc_text or "")


async def test_an_observer_that_raises_changes_no_call_of_a_session(caplog: pytest.LogCaptureFixture) -> None:
    def broken(context: MiddlewareContext, response: Any) -> None:
        complain()

    manager = MiddlewareManager([pass_on])
    async with session_of(manager) as (session, server):
        manager.add_observer(broken)
        assert (await session.list_prompts()).prompts == []
        await session.send_notification(CHANGED)
        await server.wait_for("notifications/roots/list_changed")

    assert len(caplog.records) == 1


async def test_each_observer_that_raises_is_logged_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    manager = MiddlewareManager()
    manager.add_observer(lambda context, response: complain())
    manager.add_observer(lambda context, response: exhaust())

    for _ in range(2):
        await manager.process_request(tool_call(), answer)

    assert len(caplog.records) == 2


async def test_a_logger_that_raises_while_it_logs_an_observer_changes_no_call() -> None:
    def broken(context: MiddlewareContext, response: Any) -> None:
        complain()

    def refuses(record: logging.LogRecord) -> bool:
        raise ValueError("filter at fault")

    manager = MiddlewareManager()
    manager.add_observer(broken)
    logger = logging.getLogger("mcp_intercept")
    logger.addFilter(refuses)
    try:
        response = await manager.process_request(tool_call(), answer)
    finally:
        logger.removeFilter(refuses)

    assert response.result is RESULT


async def test_the_report_of_an_observer_leaves_out_the_error_of_the_message(caplog: pytest.LogCaptureFixture) -> None:
    def broken(context: MiddlewareContext, response: Any) -> None:
        try:
            raise KeyError("first fault")
        except KeyError:
            complain()

    async def end(context: MiddlewareContext) -> Any:
        raise ValueError("hunter2")

    manager = MiddlewareManager()
    manager.add_observer(broken)
    response = await manager.process_request(tool_call(), end)

    assert "observer at fault" in caplog.text
    assert "first fault" in caplog.text
    assert "hunter2" not in caplog.text
    assert str(response.error) == "hunter2"


async def test_an_observer_that_raises_the_error_of_the_message_leaves_it_as_it_was() -> None:
    def raises_it_again(context: MiddlewareContext, response: Any) -> None:
        raise response.error

    async def end(context: MiddlewareContext) -> Any:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("no") from None

    manager = MiddlewareManager()
    manager.add_observer(raises_it_again)
    response = await manager.process_request(tool_call(), end)

    assert isinstance(response.error, ValueError)
    assert isinstance(response.error.__context__, KeyError)


async def test_a_method_name_from_outside_cannot_break_the_line_that_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    manager = MiddlewareManager()
    manager.add_observer(lambda context, response: complain())

    await manager.process_request(tool_call("acme/x\n\x1b[31mforged"), answer)

    assert caplog.records[0].getMessage().isprintable()


async def async_observer(context: MiddlewareContext, response: Any) -> None:
    raise NotImplementedError


class AsyncObserver:
    async def __call__(self, context: MiddlewareContext, response: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    "observer",
    [async_observer, functools.partial(async_observer), AsyncObserver(), AsyncObserver().__call__, None, "observer"],
    ids=["function", "partial", "callable", "method", "None", "string"],
)
def test_an_observer_that_is_async_or_not_callable_is_refused(observer: Any) -> None:
    with pytest.raises(MiddlewareError, match=r"must be a plain function \(context, response\); it is never awaited"):
        MiddlewareManager().add_observer(observer)


def test_an_observer_that_cannot_be_called_with_both_is_refused() -> None:
    observer: Any = lambda: None  # noqa: E731 - the point is its arity

    with pytest.raises(MiddlewareError, match=r"\(context, response\)"):
        MiddlewareManager().add_observer(observer)


async def test_a_coroutine_that_an_observer_returns_is_not_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    manager = MiddlewareManager()
    manager.add_observer(lambda context, response: async_observer(context, response))

    await manager.process_request(tool_call(), answer)
    gc.collect()  # else Python would complain at a later time that it was never awaited

    assert len(caplog.records) == 1


# Capture


async def test_capture_collects_what_ends_while_it_is_open() -> None:
    manager = MiddlewareManager()

    await manager.process_request(tool_call("acme/before"), answer)
    with manager.capture() as outer:
        await manager.process_request(tool_call("acme/1"), answer)
        with manager.capture() as inner:
            await manager.process_request(tool_call("acme/2"), refuse)
        await manager.process_request(tool_call("acme/3", "notification"), answer)
    await manager.process_request(tool_call("acme/after"), answer)

    assert [context.method for context, _ in outer] == ["acme/1", "acme/2", "acme/3"]
    assert [response.outcome for _, response in outer] == ["ok", "error", "ok"]
    assert inner == outer[1:2]


async def test_capture_closes_when_its_body_raises() -> None:
    manager = MiddlewareManager()

    with pytest.raises(ValueError, match="body"), manager.capture() as exchanges:
        raise ValueError("body")
    await manager.process_request(tool_call(), answer)

    assert exchanges == []


# Sessions


async def test_sessions_are_those_that_are_wrapped_and_not_closed() -> None:
    manager, other = MiddlewareManager(), MiddlewareManager()
    waiting = unentered(manager)
    assert manager.sessions == {waiting}

    async with session_of(manager) as (session, _):
        assert manager.sessions == {waiting, session}
        assert other.sessions == set()

    assert manager.sessions == {waiting}


async def test_a_session_nobody_holds_any_more_leaves() -> None:
    manager = MiddlewareManager([pass_on])
    session = unentered(manager)
    reference = weakref.ref(session)

    del session
    gc.collect()

    assert manager.sessions == set()
    assert reference() is None


async def test_a_closed_session_that_nobody_holds_is_collected() -> None:
    manager = MiddlewareManager([pass_on])
    async with session_of(manager) as (session, _):
        await session.list_prompts()
        reference = weakref.ref(session)

    del session
    gc.collect()

    assert reference() is None


async def test_the_set_of_sessions_is_a_snapshot() -> None:
    manager = MiddlewareManager()
    session = unentered(manager)

    manager.sessions.clear()

    assert manager.sessions == {session}


# Broadcast


async def test_a_broadcast_reaches_every_session_that_was_entered_through_its_chain() -> None:
    log: list[str] = []
    manager = MiddlewareManager()
    waiting = unentered(manager)
    async with session_of(manager, "one") as (_, first), session_of(manager, "two") as (_, second):
        manager.add_middleware(named("passed", log))
        await manager.broadcast(CHANGED)
        await first.wait_for("notifications/roots/list_changed")
        await second.wait_for("notifications/roots/list_changed")

    assert [len(server.sent("notifications/roots/list_changed")) for server in (first, second)] == [1, 1]
    assert log == ["passed", "passed"]
    assert manager.sessions == {waiting}


async def test_a_broadcast_reaches_a_session_that_was_entered_through_the_one_inside() -> None:
    manager = MiddlewareManager()
    async with wire() as (streams, server), ClientSession(*streams) as inner:
        session = intercept(inner, manager)
        assert manager.sessions == {session}
        await manager.broadcast(CHANGED)
        await server.wait_for("notifications/roots/list_changed")

    assert manager.sessions == set()


@pytest.mark.skipif(not LINE_1, reason="line 2 wraps no message")
async def test_a_broadcast_takes_a_notification_in_the_root_model_of_line_1() -> None:
    manager = MiddlewareManager()
    wrapper: Any = types.ClientNotification
    async with session_of(manager) as (_, server):
        await manager.broadcast(wrapper(CHANGED))
        await server.wait_for("notifications/roots/list_changed")


async def test_a_broadcast_to_nobody_is_nothing() -> None:
    await MiddlewareManager().broadcast(CHANGED)


async def test_a_broadcast_that_fails_for_one_session_reaches_the_others_and_says_which_failed() -> None:
    async def refuses_one(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        if context.connection_id == "one" and context.kind == "notification":
            raise ValueError("not this one")
        return await call_next(context)

    manager = MiddlewareManager()
    async with session_of(manager, "one") as (one, first), session_of(manager, "two") as (_, second):
        manager.add_middleware(refuses_one)
        with pytest.raises(BroadcastError) as caught:
            await manager.broadcast(CHANGED)
        await second.wait_for("notifications/roots/list_changed")

    assert first.sent("notifications/roots/list_changed") == []
    assert re.fullmatch(r"the broadcast did not reach 1 .*\bone\b.*: ValueError\('not this one'\)", str(caught.value))
    assert [*caught.value.failures] == [one]
    assert str(caught.value.failures[one]) == "not this one"


async def test_a_broadcast_does_not_touch_a_session_of_another_event_loop_and_says_so(anyio_backend: str) -> None:
    manager = MiddlewareManager()
    theirs: list[Any] = []
    ready, done = threading.Event(), threading.Event()

    async def live_elsewhere() -> None:
        async with session_of(manager, "elsewhere") as (session, server):
            theirs.extend((session, server))
            ready.set()
            await anyio.to_thread.run_sync(done.wait, 10)

    async with session_of(manager, "here") as (_, server), anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, functools.partial(anyio.run, live_elsewhere, backend=anyio_backend))
        try:
            assert await anyio.to_thread.run_sync(ready.wait, 10)
            with pytest.raises(BroadcastError) as caught:
                await manager.broadcast(CHANGED)
            await server.wait_for("notifications/roots/list_changed")
        finally:
            done.set()
        session, server_elsewhere = theirs
        assert [*caught.value.failures] == [session]
        assert isinstance(caught.value.failures[session], SessionStateError)
        assert re.search(r"elsewhere.* lives in another event loop; send to it from there", str(caught.value))
        assert server_elsewhere.sent("notifications/roots/list_changed") == []


async def test_a_broadcast_can_be_cancelled() -> None:
    under_way = anyio.Event()

    async def hangs(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        under_way.set()
        await anyio.sleep_forever()

    manager = MiddlewareManager()
    async with session_of(manager) as (session, server):
        undo = manager.add_middleware(hangs)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.broadcast, CHANGED)
            await under_way.wait()
            tasks.cancel_scope.cancel()
        undo()
        assert (await session.list_prompts()).prompts == []

    assert server.sent("notifications/roots/list_changed") == []


async def test_two_managers_do_not_know_of_each_other() -> None:
    logs: list[list[str]] = [[], []]
    managers = [MiddlewareManager(), MiddlewareManager()]
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(session_of(manager)) for manager in managers]
        undos = [manager.add_middleware(named("own", log)) for manager, log in zip(managers, logs, strict=True)]
        with managers[0].capture() as first, managers[1].capture() as second:
            await sessions[0][0].list_prompts()
            await managers[1].broadcast(CHANGED)
        undos[0]()
        await sessions[0][0].list_prompts()

    assert logs == [["own"], ["own"]]
    assert [context.method for context, _ in first] == ["prompts/list"]
    assert [context.method for context, _ in second] == ["notifications/roots/list_changed"]


async def test_one_manager_can_serve_many_sessions() -> None:
    manager = MiddlewareManager()
    async with session_of(manager, "one") as (first, _), session_of(manager, "two") as (second, _):
        with manager.capture() as exchanges:
            await first.list_prompts()
            await second.list_prompts()

    assert [context.connection_id for context, _ in exchanges] == ["one", "two"]
    assert [context.session for context, _ in exchanges] == [first, second]


# Calls of one's own


async def test_process_request_reports_the_result() -> None:
    context = tool_call()

    response = await MiddlewareManager([pass_on]).process_request(context, answer)

    assert (response.request_id, response.result, response.error) == ("id-1", RESULT, None)
    assert response.metadata is context.metadata
    assert response.jsonrpc_response is None


@pytest.mark.parametrize("middlewares", [[], [pass_on]], ids=["no layers", "a layer"])
async def test_process_request_reports_an_exception_instead_of_raising_it(middlewares: list[AnyMiddleware]) -> None:
    error = ValueError("no")

    async def end(context: MiddlewareContext) -> Any:
        raise error

    response = await MiddlewareManager(middlewares).process_request(tool_call(), end)

    assert response.error is error
    assert (response.result, response.outcome) == (None, "error")


async def test_process_request_reports_a_broken_middleware_too() -> None:
    async def forgets(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        await call_next(context)

    response = await MiddlewareManager([forgets]).process_request(tool_call(), answer)

    assert isinstance(response.error, MiddlewareError)
    assert response.error.middleware is forgets


@pytest.mark.parametrize("middlewares", [[], [pass_on]], ids=["no layers", "a layer"])
async def test_a_cancellation_propagates_out_of_process_request_and_is_observed(
    middlewares: list[AnyMiddleware],
) -> None:
    seen: Seen = []
    manager = MiddlewareManager(middlewares)
    watch(manager, seen)
    with anyio.fail_after(30), anyio.CancelScope() as scope:

        async def end(context: MiddlewareContext) -> Any:
            scope.cancel()
            await anyio.sleep_forever()

        await manager.process_request(tool_call(), end)
        raise AssertionError("the cancellation was swallowed")

    assert scope.cancelled_caught
    assert seen == [("tools/call", "cancelled")]


async def test_ctrl_c_propagates_out_of_process_request_and_is_observed() -> None:
    seen: Seen = []
    manager = MiddlewareManager([pass_on])
    watch(manager, seen)

    async def end(context: MiddlewareContext) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await manager.process_request(tool_call(), end)

    assert seen == [("tools/call", "cancelled")]


async def test_process_request_sends_each_time_the_end_is_reached_with_what_reached_it() -> None:
    sent: list[Any] = []

    async def twice(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        await call_next(replace(context, params="first"))
        return await call_next(replace(context, params="second"))

    async def end(context: MiddlewareContext) -> Any:
        sent.append((context.params, context.attempt))
        return RESULT

    response = await MiddlewareManager([twice]).process_request(tool_call(), end)

    assert sent == [("first", 1), ("second", 2)]
    assert response.result is RESULT


async def test_the_result_type_of_a_known_method_is_checked_for_calls_of_ones_own_too() -> None:
    async def knows(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return {"prompts": []}

    manager = MiddlewareManager([knows])
    response = await manager.process_request(tool_call("prompts/list"), answer)
    refused = await manager.process_request(tool_call("tools/call"), answer)

    assert response.result == types.ListPromptsResult(prompts=[])
    assert isinstance(refused.error, MiddlewareError)


@pytest.mark.parametrize("value", ["anything", {"any": "dict"}, 7])
async def test_a_method_nobody_knows_may_be_answered_with_anything(value: object) -> None:
    async def knows(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return value

    response = await MiddlewareManager([knows]).process_request(tool_call("acme/x"), answer)

    assert response.result is value


async def test_a_call_of_ones_own_that_answers_with_no_model_lets_middlewares_do_so_too() -> None:
    async def changes(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return (await call_next(context)).upper()

    async def end(context: MiddlewareContext) -> str:
        return "text"

    assert (await MiddlewareManager([changes]).process_request(tool_call(), end)).result == "TEXT"


@pytest.mark.parametrize("value", [None, {"any": "dict"}, "text"])
@pytest.mark.parametrize("kind", ["request", "notification"])
async def test_what_a_call_of_ones_own_answers_passes_the_layers_as_it_is(value: object, kind: str) -> None:
    async def end(context: MiddlewareContext) -> Any:
        return value

    response = await MiddlewareManager([pass_on, Counter()]).process_request(tool_call("tools/call", kind), end)

    assert (response.error, response.outcome) == (None, "ok")
    assert response.result is value


async def test_a_notification_of_ones_own_may_be_dropped() -> None:
    async def drops(context: MiddlewareContext, call_next: NextFunctionT) -> None:
        return None

    manager = MiddlewareManager([pass_on, drops])
    response = await manager.process_request(tool_call("notifications/progress", "notification"), refuse)

    assert (response.error, response.result) == (None, None)


async def test_the_response_belongs_to_the_context_it_was_called_with_whatever_a_layer_passed_on() -> None:
    async def renews(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return await call_next(MiddlewareContext("id-2", context.method, None, "connection-1", 1.5))

    context = tool_call()
    response = await MiddlewareManager([renews]).process_request(context, answer)

    assert response.request_id == context.id
    assert response.metadata is context.metadata


@pytest.mark.skipif(LINE_1, reason="multi-round-trip calls are new in 2026-07-28")
async def test_a_tool_call_of_ones_own_may_be_answered_with_a_question() -> None:
    wire_dict = {"resultType": "input_required", "requestState": "state"}
    question = types.InputRequiredResult.model_validate(wire_dict)

    async def asks(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        return question

    response = await MiddlewareManager([asks]).process_request(tool_call(), answer)

    assert response.error is None
    assert response.result is question


def turn_back_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at it, by any module of the package, show an earlier time."""
    wall_clock = time.time
    backwards = iter(range(10**9, 0, -1)).__next__
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "mcp_intercept"]
    for module in (time, *modules):
        for name in [name for name, value in vars(module).items() if value is wall_clock]:
            monkeypatch.setattr(module, name, backwards)


async def test_durations_are_never_negative_whatever_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = MiddlewareManager([pass_on])
    async with session_of(manager) as (session, _):
        turn_back_the_wall_clock(monkeypatch)
        with manager.capture() as exchanges:
            await session.list_prompts()
            await session.send_notification(CHANGED)
            await manager.process_request(tool_call(), answer)
            await manager.process_request(replace(tool_call(), timestamp=10.0**12), refuse)

    assert exchanges[0].context.timestamp > exchanges[1].context.timestamp
    assert [0 <= response.duration < 20 for _, response in exchanges] == [True] * 4


async def test_a_duration_covers_the_layers_and_the_call() -> None:
    def spin() -> None:
        end = time.perf_counter() + 0.01
        while time.perf_counter() < end:
            pass

    async def busy(context: MiddlewareContext, call_next: NextFunctionT) -> Any:
        result = await call_next(context)
        spin()
        return result

    async def end(context: MiddlewareContext) -> Any:
        spin()
        return RESULT

    response = await MiddlewareManager([busy]).process_request(tool_call(), end)

    assert 0.02 <= response.duration < 20


class Name(str):
    """A method name that can be watched being forgotten."""


@pytest.mark.parametrize("kind", ["request", "notification"])
async def test_method_names_from_outside_are_not_kept(kind: str) -> None:
    manager = MiddlewareManager([pass_on, Counter()])
    seen: Seen = []
    watch(manager, seen)

    async def pass_one(number: int) -> Any:
        name = Name(f"acme/{number}")
        await manager.process_request(tool_call(name, kind), answer)
        return weakref.ref(name)

    references = [await pass_one(number) for number in range(1000)]
    assert len(seen) == 1000
    seen.clear()
    gc.collect()

    assert [reference() for reference in references if reference() is not None] == []


async def test_methods_that_nobody_knows_pass_all_general_layers() -> None:
    counter = Counter()
    manager = MiddlewareManager([pass_on, counter])

    for number in range(3):
        assert (await manager.process_request(tool_call(f"acme/{number}"), answer)).result is RESULT

    assert counter.count == 3


def test_a_manager_of_one_middleware_without_a_list_is_refused_with_the_way_out() -> None:
    middleware: Any = pass_on

    with pytest.raises(MiddlewareError, match=r"as a list: MiddlewareManager\(\[first, second\]\)"):
        MiddlewareManager(middleware)
