"""What a wrapper is, beyond what it sends: its attributes, and the odd ways to use a session."""

from __future__ import annotations

from typing import Any

import anyio
import mcp.types as types
import pytest
from mcp import ClientSession

from mcp_intercept import CallbackClientSession, MiddlewareManager, connect, intercept
from tests.wire import LINE_1, never, wire

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
