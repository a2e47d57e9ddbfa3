"""What a wrapper is, beyond what it sends: its attributes, and the odd ways to use a session."""

from __future__ import annotations

from typing import Any

import anyio
import mcp.types as types
import pytest
from mcp import ClientSession

from mcp_intercept import CallbackClientSession, MiddlewareManager, connect, intercept
from mcp_intercept.errors import UnsupportedTargetError
from tests.ears import Error
from tests.test_fidelity import WRAPPINGS, seconds, speaking
from tests.wire import LINE_1, RESULTS, Frame, never, wire

pytestmark = pytest.mark.anyio


async def pass_on(context: Any, call_next: Any) -> Any:
    return await call_next(context)


async def test_a_wrapper_tells_what_it_was_made_of() -> None:
    async with wire() as (streams, _):
        inner, manager = ClientSession(*streams), MiddlewareManager()
        session = CallbackClientSession(inner, "weather", manager)
        assert (session.client_session, session.connector_id, session.middleware_manager) == (inner, "weather", manager)
        assert repr(session) == "<CallbackClientSession 'weather'>"


def test_the_methods_of_the_class_are_functions() -> None:
    # For subclasses, tools that patch classes, and documentation.
    assert CallbackClientSession.send_request.__name__ == "send_request"
    assert "through the chain" in str(CallbackClientSession.send_notification.__doc__)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_a_message_does_not_wait_for_another(wrapping: str) -> None:
    async with speaking(wrapping) as (session, server), anyio.create_task_group() as tasks:
        server.answers["prompts/list"] = server.answers["ping"] = never
        for say in (session.list_prompts, session.list_prompts, session.send_ping, session.send_roots_list_changed):
            tasks.start_soon(say)
        await anyio.wait_all_tasks_blocked()
        assert sorted(server.methods) == [
            "notifications/roots/list_changed",
            "ping",
            "prompts/list",
            "prompts/list",
        ]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_the_progress_of_a_call_is_reported_once_each_before_the_call_returns(wrapping: str) -> None:
    reported: list[Any] = []

    async def report(*progress: Any) -> None:
        reported.append(progress)

    async with speaking(wrapping) as (session, server):

        async def answer(frame: Frame) -> Frame:
            token = frame["params"].get("_meta", {}).get("progressToken")
            for step in (1.0, 2.0):
                progress = {
                    "progressToken": "none" if token is None else token,
                    "progress": step,
                    "total": 2.0,
                    "message": "m",
                }
                await server.notify("notifications/progress", progress)
            return RESULTS["tools/call"]

        server.answers["tools/call"] = answer
        await session.call_tool("tool", progress_callback=report)
        assert sorted(reported) == [(1.0, 2.0, "m"), (2.0, 2.0, "m")]


@pytest.mark.parametrize("length", [0, 0.01])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
async def test_the_timeout_of_a_call_ends_it(wrapping: str, length: float) -> None:
    async with speaking(wrapping) as (session, server):
        server.answers["tools/call"] = never
        with anyio.fail_after(30), pytest.raises(Error):
            await session.call_tool("tool", {}, seconds(length))


async def test_an_attribute_patched_on_the_wrapper_can_be_taken_back() -> None:
    async with wire() as (streams, server), connect(streams) as session:
        patched: Any = session

        async def nothing(*args: Any, **kwargs: Any) -> types.EmptyResult:
            return types.EmptyResult()

        patched.send_request = nothing
        await session.send_ping()
        assert server.sent("ping") == []
        del patched.send_request
        await session.send_ping()
        assert len(server.sent("ping")) == 1


async def test_what_is_no_notification_is_refused_as_by_a_bare_session() -> None:
    async with wire() as (streams, _), connect(streams, pass_on) as session:
        nonsense: Any = "nonsense"
        with pytest.raises(AttributeError, match="model_dump"):
            await session.send_notification(nonsense)


async def test_a_running_session_can_be_wrapped_in_a_thread_without_an_event_loop() -> None:
    async with wire() as (streams, server), connect(streams) as session:
        outer = await anyio.to_thread.run_sync(intercept, session, pass_on)
        await outer.send_ping()
        assert len(server.sent("ping")) == 1


async def test_a_call_whose_coroutine_is_dropped_ends_without_a_word() -> None:
    async with wire() as (streams, server), connect(streams, pass_on) as session:
        server.answers["ping"] = never
        # By hand, as an event loop would, up to where the call first waits.
        call = session.send_ping()
        call.send(None)
        call.close()
        await session.list_prompts()
        assert "notifications/cancelled" not in server.methods


if not LINE_1:

    async def test_a_session_whose_dispatcher_somebody_else_runs_needs_no_entering() -> None:
        from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher

        async def ignore(*args: Any) -> Any:
            raise NotImplementedError

        async with wire() as (streams, server), anyio.create_task_group() as tasks:
            dispatcher: Any = JSONRPCDispatcher(*streams)
            await tasks.start(dispatcher.run, ignore, ignore)
            session = intercept(ClientSession(dispatcher=dispatcher), pass_on)
            await session.send_ping()
            assert server.methods == ["ping"]
            tasks.cancel_scope.cancel()

    async def test_what_else_is_handed_to_the_dispatcher_goes_past_the_chain() -> None:
        async with wire() as (streams, server), connect(streams) as session:
            dispatcher: Any = session._dispatcher
            with session.middleware_manager.capture() as exchanges:
                assert await dispatcher.send_raw_request("acme/x", {"a": 1}) == {}
            assert server.sent("acme/x")[0]["params"]["a"] == 1
            assert exchanges == []


async def test_a_session_that_was_never_made_is_refused_with_the_way_out() -> None:
    class Empty(ClientSession):
        def __init__(self) -> None:
            """Keeps no state, as it opens other sessions."""

    with pytest.raises(UnsupportedTargetError, match=r"never ran ClientSession.__init__; use intercept_all\(\)"):
        intercept(Empty())
