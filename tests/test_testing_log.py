"""`MessageLog`: every message of both directions, and assertions that say what was called instead."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import ANY

import anyio
import pytest

from mcp_intercept import MiddlewareContext, connect, intercept
from mcp_intercept.testing import MessageLog, ScriptedServer
from tests.ears import Ears, Error, call, settled
from tests.wire import LINE_1

pytestmark = pytest.mark.anyio


def weather() -> ScriptedServer:
    server = ScriptedServer("weather")
    server.on_tool("forecast", "sunny")
    server.on_tool("fail", {"content": [], "isError": True})
    server.on_tool("refuse", server.error(-32000, "no"))
    server.on_tool("hang", lambda arguments: anyio.sleep_forever())
    server.on_resource("memo://1", "remember")
    return server


async def logged(*calls: tuple[str, dict[str, Any]]) -> MessageLog:
    """The log of some calls."""
    server, log = ScriptedServer(), MessageLog()
    for tool, _ in calls:
        server.on_tool(tool)
    async with connect(server.transport(), log) as session:
        for tool, arguments in calls:
            await session.call_tool(tool, arguments)
    return log


def complaint(log: MessageLog, *wanted: Any, **at_least: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        log.assert_called(*wanted, **at_least)
    return str(caught.value)


async def test_every_message_of_both_directions_is_noted_in_order() -> None:
    server, log, ears = weather(), MessageLog(), Ears()
    async with connect(server.transport(), log, connection_id="weather", **ears.options) as session:
        await call(session, "forecast")
        server.notify("notifications/message", {"level": "info", "data": "d"})
        await server.ask("roots/list")
        await settled()
    assert [(message.direction, message.kind, message.method, message.outcome) for message in log.messages] == [
        ("outgoing", "request", "initialize", "ok"),
        ("outgoing", "notification", "notifications/initialized", "ok"),
        ("outgoing", "request", "tools/call", "ok"),
        ("incoming", "notification", "notifications/message", "ok"),
        ("incoming", "request", "roots/list", "ok"),
    ]
    assert {message.connection_id for message in log.messages} == {"weather"}
    [called] = log.requests("tools/call")
    assert called.params == {"name": "forecast"}
    assert called.result["content"] == [{"type": "text", "text": "sunny"}]
    [roots] = log.requests(direction="incoming")
    assert roots.result == {"roots": [{"uri": "file:///root"}]}
    assert [message.params["data"] for message in log.notifications("notifications/message")] == ["d"]
    assert log.notifications(direction="outgoing")[0].result is None
    assert log.notifications("notifications/message", direction="outgoing") == []


async def test_how_each_ended_is_noted() -> None:
    log = MessageLog()
    async with connect(weather().transport(), log) as session:
        await call(session, "forecast")
        await call(session, "fail")
        with pytest.raises(Error):
            await call(session, "refuse")
        with anyio.move_on_after(0.01):
            await call(session, "hang")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, session, "hang")
            await settled()
            assert log.outcomes == ["ok", "tool_error", "error", "cancelled", None]
            assert repr(log.messages[-1]) == "<Message tools/call outgoing request under way>"
            tasks.cancel_scope.cancel()
    assert log.tools == ["forecast", "fail", "refuse", "hang", "hang"]
    assert log.outcomes == ["ok", "tool_error", "error", "cancelled", "cancelled"]
    refused = log.requests("tools/call")[2]
    assert (refused.result, type(refused.error)) == (None, Error)


async def test_names_and_arguments_are_at_hand() -> None:
    log = MessageLog()
    async with connect(weather().transport(), log) as session:
        await session.read_resource("memo://1")
        await session.call_tool("forecast", {"city": "Oslo", "near": None})
    assert [request.name for request in log.requests()][:3] == [None, "memo://1", "forecast"]
    assert log.calls == [("forecast", {"city": "Oslo", "near": None})]
    assert log.requests("resources/read")[0].arguments == {}


async def test_it_notes_what_it_gets_at_its_place_in_the_chain() -> None:
    outer, inner = MessageLog(), MessageLog()

    async def move(context: MiddlewareContext[Any], call_next: Any) -> Any:
        if context.method == "tools/call":
            context.params.arguments["city"] = "Bergen"
        return await call_next(context)

    async with connect(weather().transport(), outer, move, inner) as session:
        await session.call_tool("forecast", {"city": "Oslo"})
    assert (outer.calls, inner.calls) == ([("forecast", {"city": "Oslo"})], [("forecast", {"city": "Bergen"})])


async def test_the_frames_of_the_wire_are_kept_on_request() -> None:
    server, log = weather(), MessageLog()
    async with connect(server.transport(), log, on_frame=log.on_frame):
        await server.ask("ping")
    answer = ("outgoing", {"jsonrpc": "2.0", "id": "weather-1", "result": {}})
    assert answer in log.frames
    assert [frame for way, frame in log.frames if way == "outgoing" and "method" in frame] == [
        received.frame for received in server.received
    ]


async def test_it_can_forget() -> None:
    log = MessageLog()
    async with connect(weather().transport(), log, on_frame=log.on_frame):
        log.clear()
    assert (log.messages, log.frames) == ([], [])


async def test_its_representation_shows_numbers_only() -> None:
    log = MessageLog()
    async with connect(weather().transport(), log) as session:
        await call(session, "forecast")
        await call(session, "fail")
    assert repr(log) == "<MessageLog: 4 messages, 2 tool calls, 1 failed>"
    assert repr(log.messages[0]) == "<Message initialize outgoing request ok>"


async def test_what_is_no_json_is_no_reason_to_fail() -> None:
    log = MessageLog()

    async def answer(context: MiddlewareContext[Any], call_next: Any) -> Any:
        return {"content": []} if context.method == "tools/call" else await call_next(context)

    async with connect(weather().transport(), log, answer) as session:
        await session.call_tool("forecast", {"city": object()})
    called = next(message for message in log.messages if message.method == "tools/call")
    assert (called.params, called.outcome) == ({}, "ok")


async def test_several_sessions_may_share_one() -> None:
    log = MessageLog()
    server = weather()
    async with connect(server.transport(), connection_id="a") as one, connect(server.transport()) as other:
        await call(intercept(one, log, connection_id="one"), "forecast")
        await call(intercept(other, log, connection_id="other"), "forecast")
    assert [message.connection_id for message in log.messages] == ["one", "other"]


async def test_calls_that_fit_are_found() -> None:
    log = await logged(("forecast", {"city": "Oslo", "days": 2}), ("forecast", {"city": "Oslo"}), ("add", {}))
    assert log.assert_called("forecast") == log.requests("tools/call")[:2]
    assert log.assert_called("forecast", city="Oslo", days=2.0) == log.requests("tools/call")[:1]
    assert log.assert_called("forecast", {"city": "Oslo"}) == log.requests("tools/call")[1:2]
    assert log.assert_called("forecast", {"city": "Oslo"}, days=2) == log.requests("tools/call")[:1]
    assert log.assert_called("forecast", city=ANY, days=pytest.approx(2)) == log.requests("tools/call")[:1]
    log.assert_called("add", {})
    log.assert_not_called("remove")
    log.assert_not_called("forecast", city="Rome")
    log.assert_not_called("forecast", {})


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (True, True, True),
        (None, False, False),
        ([1, [2]], [1, [2.0]], True),
        ([1, 2], (1, 2), True),
        ([1, 2], [1], False),
        ([1], [True], False),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, True),
        ({"a": {"b": 1}}, {"a": {"b": True}}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, [1], False),
        ("1", 1, False),
    ],
)
async def test_values_are_compared_as_json(found: Any, wanted: Any, same: bool) -> None:
    log = await logged(("tool", {"value": found}))
    if same:
        log.assert_called("tool", value=wanted)
    else:
        log.assert_not_called("tool", value=wanted)


async def test_a_tool_that_was_not_called_is_reported_with_those_that_were() -> None:
    log = await logged(("add", {"a": 1}), ("forecasts", {"city": "Oslo"}))
    assert complaint(log, "forecast", city="Oslo") == (
        "forecast was not called, but, the nearest first:\n  forecasts(city='Oslo')\n  add(a=1)"
    )
    assert complaint(MessageLog(), "forecast") == "forecast was not called, and no other tool was"


async def test_other_arguments_are_reported_with_what_differs() -> None:
    log = await logged(("forecast", {}), ("forecast", {"city": "Rome", "days": 2}), ("other", {}))
    assert complaint(log, "forecast", city="Oslo", days=2) == (
        "forecast was not called with city='Oslo', days=2, but 2 times otherwise, the nearest first:\n"
        "  forecast(city='Rome', days=2): city is 'Rome'\n"
        "  forecast(): city is missing, days is missing"
    )
    assert complaint(log, "other", {"n": 1}) == (
        "other was not called with n=1, but once otherwise, the nearest first:\n  other(): n is missing"
    )
    assert "forecast was not called with city='Rome', but" in complaint(log, "forecast", {"city": "Rome"})
    assert "forecast(city='Rome', days=2): days is there as well" in complaint(log, "forecast", {"city": "Rome"})
    log.clear()
    assert re.match(
        "tool was not called with no arguments, but once", complaint(await logged(("tool", {"a": 1})), "tool", {})
    )


async def test_long_reports_are_cut() -> None:
    log = await logged(*[("tool", {"number": number, "text": "x" * 200}) for number in range(7)])
    report = complaint(log, "tool", number=9)
    assert report.count("\n") == 6
    assert report.endswith("\n  ... and 2 more")
    assert max(map(len, report.splitlines())) < 200


async def test_a_call_that_should_not_have_been_is_reported() -> None:
    log = await logged(("delete", {"path": "/"}), ("delete", {"path": "/tmp"}))
    with pytest.raises(AssertionError, match="delete was called 2 times:\n  delete.path='/'.\n  delete.path='/tmp'."):
        log.assert_not_called("delete")
    with pytest.raises(AssertionError, match="delete was called once:"):
        log.assert_not_called("delete", path="/tmp")


@pytest.mark.skipif(LINE_1, reason="line 1 has no Client")
async def test_it_goes_into_a_client_too() -> None:
    from mcp import Client

    log = MessageLog()
    transport: Any = weather().transport()
    async with intercept(Client(transport), log) as client:
        await client.call_tool("forecast", {"city": "Oslo"})
    log.assert_called("forecast", city="Oslo")
    assert log.requests("server/discover")[0].outcome == "ok"
