"""`ScriptedServer`: says what is scripted, over any session, and fails the test that asks for more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import mcp.types as types
import pytest
from mcp import ClientSession

from mcp_intercept import InterceptError, connect
from mcp_intercept.testing import ScriptedServer
from tests.ears import Ears, Error, T, call, dumped, rpc_error, settled
from tests.wire import LINE_1

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def by_connect(server: ScriptedServer, **options: Any) -> AsyncGenerator[Any, None]:
    async with connect(server.transport(), **options) as session:
        yield session


@asynccontextmanager
async def by_session(server: ScriptedServer, **options: Any) -> AsyncGenerator[Any, None]:
    async with server.transport() as streams, ClientSession(*streams, **options) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def by_client(server: ScriptedServer, **options: Any) -> AsyncGenerator[Any, None]:
    from mcp import Client

    transport: Any = server.transport()
    async with Client(transport, **options) as client:
        yield client


@asynccontextmanager
async def by_discovery(server: ScriptedServer, **options: Any) -> AsyncGenerator[Any, None]:
    async with connect(server.transport(), mode="auto", **options) as session:
        yield session


WAYS: dict[str, Open] = {
    "connect": by_connect,
    "ClientSession": by_session,
    **({} if LINE_1 else {"Client": by_client, "2026-07-28": by_discovery}),
}

every_way = pytest.mark.parametrize("way", WAYS)
only_line_2 = pytest.mark.skipif(LINE_1, reason="line 1 knows only the handshake")


def text_of(result: Any) -> str:
    [content] = result.content
    text: str = content.text
    return text


def failing(result: Any) -> Any:
    async def fail(asked: Any) -> Any:
        raise result

    return fail


async def async_rain(arguments: dict[str, Any]) -> str:
    await anyio.lowlevel.checkpoint()
    return f"rain in {arguments['city']}"


@every_way
async def test_what_is_scripted_is_what_the_client_gets(way: str) -> None:
    server = ScriptedServer("weather", version="7")
    server.on_tool("forecast", lambda arguments: f"sunny in {arguments['city']}", description="Looks out.")
    server.on_resource("memo://1", "remember", mime_type="text/plain")
    server.on_resource("memo://2", b"\x00\xff", name="two")
    server.on_prompt("greet", lambda arguments: f"hello {arguments['who']}", description="Greets.", arguments=["who"])
    async with WAYS[way](server) as session:
        assert text_of(await session.call_tool("forecast", {"city": "Oslo"})) == "sunny in Oslo"
        [tool] = (await session.list_tools()).tools
        assert (tool.name, tool.description) == ("forecast", "Looks out.")
        assert [dumped(resource) for resource in (await session.list_resources()).resources] == [
            {"uri": "memo://1", "name": "memo://1", "mimeType": "text/plain"},
            {"uri": "memo://2", "name": "two"},
        ]
        assert (await session.list_resource_templates()).model_dump(by_alias=True)["resourceTemplates"] == []
        [one] = (await session.read_resource("memo://1")).contents
        [two] = (await session.read_resource("memo://2")).contents
        assert (one.text, two.blob) == ("remember", "AP8=")
        [prompt] = (await session.list_prompts()).prompts
        assert (prompt.name, prompt.description, prompt.arguments[0].name) == ("greet", "Greets.", "who")
        [message] = (await session.get_prompt("greet", {"who": "Ada"})).messages
        assert (message.role, message.content.text) == ("user", "hello Ada")


@every_way
async def test_the_handshake_says_who_it_is_and_what_it_can(way: str) -> None:
    server = ScriptedServer("weather", version="7", instructions="Ask nicely.")
    server.on_tool("forecast")
    async with WAYS[way](server):
        pass
    first = server.requests[0]
    assert first.method == ("initialize" if way in ("connect", "ClientSession") else "server/discover")

    async with server.transport() as streams, ClientSession(*streams) as session:
        shaken = dumped(await session.initialize())
    assert shaken["serverInfo"] == {"name": "weather", "version": "7"}
    assert shaken["instructions"] == "Ask nicely."
    assert shaken["capabilities"] == {"tools": {}}


async def test_capabilities_are_those_of_what_is_scripted() -> None:
    server = ScriptedServer()
    server.on_resource("memo://1")
    for method in ("tools/list", "tools/call", "completion/complete", "logging/setLevel", "ping"):
        server.on(method)
    async with server.transport() as streams, ClientSession(*streams) as session:
        shaken = dumped(await session.initialize())
    assert shaken["capabilities"] == {"completions": {}, "logging": {}, "resources": {}, "tools": {}}


async def test_capabilities_can_be_given() -> None:
    server = ScriptedServer(capabilities={"logging": {}})
    async with server.transport() as streams, ClientSession(*streams) as session:
        assert dumped(await session.initialize())["capabilities"] == {"logging": {}}


@only_line_2
async def test_discovery_says_the_same() -> None:
    server = ScriptedServer("weather", instructions="Ask nicely.")
    async with by_client(server) as client:
        assert (client.server_info.name, client.instructions) == ("weather", "Ask nicely.")
        assert client.protocol_version == "2026-07-28"
    async with by_discovery(ScriptedServer()) as session:
        assert session.instructions is None


async def test_the_oldest_version_a_client_asks_for_is_spoken() -> None:
    server = ScriptedServer()
    async with server.transport() as (read, write):
        for number, wanted in enumerate(["2024-11-05", "1999-01-01"]):
            await write.send(message("initialize", number, {"protocolVersion": wanted}))
        answers = [(await read.receive()).message for _ in range(2)]
    versions = [(answer.root if LINE_1 else answer).result["protocolVersion"] for answer in answers]
    assert versions == ["2024-11-05", "2025-11-25"]


def message(method: str, request_id: Any = None, params: Any = None) -> Any:
    from mcp_intercept.testing._line import session_message

    frame = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    return session_message(frame if request_id is None else {**frame, "id": request_id})


async def test_a_server_of_one_old_version_speaks_no_other() -> None:
    server = ScriptedServer(protocol_version="2025-03-26", strict=True)
    async with connect(server.transport(), mode="legacy" if LINE_1 else "auto"):
        pass
    methods = [request.method for request in server.requests]
    assert methods == (["initialize"] if LINE_1 else ["server/discover", "initialize"])
    async with server.transport() as streams, ClientSession(*streams) as session:
        assert dumped(await session.initialize())["protocolVersion"] == "2025-03-26"


async def test_a_server_of_the_new_version_refuses_the_handshake() -> None:
    server = ScriptedServer(protocol_version="2026-07-28")
    async with server.transport() as streams, ClientSession(*streams) as session:
        with pytest.raises(Error) as caught:
            await session.initialize()
    assert caught.value.error.code == -32022
    assert caught.value.error.data["supported"] == ["2026-07-28"]


def test_there_is_no_other_version() -> None:
    with pytest.raises(InterceptError, match="None or '2024-11-05' or .* or '2026-07-28', not '2030-01-01'"):
        ScriptedServer(protocol_version="2030-01-01")


CONTENT = [{"type": "text", "text": "t"}]
TOOL_ANSWERS: dict[str, tuple[Any, Any]] = {
    "str": ("t", {"content": CONTENT}),
    "list": (CONTENT, {"content": CONTENT}),
    "models in a list": ([T.TextContent(type="text", text="t")], {"content": CONTENT}),
    "dict": ({"content": CONTENT, "isError": True}, {"content": CONTENT, "isError": True}),
    "structured": ({"structuredContent": {"a": None}}, {"content": [], "structuredContent": {"a": None}}),
    "model": (T.CallToolResult(content=[T.TextContent(type="text", text="t")]), {"content": CONTENT}),
    "None": (None, {"content": []}),
}


@every_way
@pytest.mark.parametrize("made_by", ["value", "function", "async function"])
@pytest.mark.parametrize("kind", TOOL_ANSWERS)
async def test_a_tool_answers_with_anything_that_stands_for_a_result(kind: str, made_by: str, way: str) -> None:
    answer, expected = TOOL_ANSWERS[kind]

    async def later(arguments: Any) -> Any:
        return answer

    server = ScriptedServer()
    server.on_tool("tool", {"value": answer, "function": lambda arguments: answer, "async function": later}[made_by])
    async with WAYS[way](server) as session:
        result = dumped(await session.call_tool("tool"))
    if not expected.get("isError"):
        expected = {**expected, "isError": False}
    assert {key: value for key, value in result.items() if key != "resultType"} == expected


@every_way
@pytest.mark.parametrize("raised", [True, False])
async def test_an_exception_is_a_json_rpc_error(way: str, raised: bool) -> None:
    errors = [
        ScriptedServer.error(-32000, "no", {"a": 1}),
        rpc_error(-32001, "nor"),
        ValueError("bad"),
        KeyError(),
        KeyError("city"),
    ]
    server = ScriptedServer()
    server.on_tool("tool", *(map(failing, errors) if raised else errors))
    found: list[tuple[Any, ...]] = []
    async with WAYS[way](server) as session:
        for _ in errors:
            with pytest.raises(Error) as caught:
                await session.call_tool("tool")
            found.append((caught.value.error.code, caught.value.error.message, caught.value.error.data))
    assert found == [
        (-32000, "no", {"a": 1}),
        (-32001, "nor", None),
        (-32603, "bad", None),
        (-32603, "KeyError", None),
        (-32603, "KeyError: 'city'", None),
    ]


async def test_a_returned_exception_is_an_error_too() -> None:
    server = ScriptedServer()
    server.on("ping", lambda params: ValueError("no"))
    async with by_connect(server) as session:
        with pytest.raises(Error, match="no"):
            await session.send_ping()


async def test_answers_come_in_order_and_the_last_again_and_again() -> None:
    server = ScriptedServer()
    forecast = server.on_tool("forecast", "sun", ValueError("fog"), async_rain)
    assert not forecast.called
    assert server.unused == [forecast]
    async with by_connect(server) as session:
        assert text_of(await session.call_tool("forecast", {"city": "a"})) == "sun"
        with pytest.raises(Error, match="fog"):
            await session.call_tool("forecast", {"city": "b"})
        assert text_of(await session.call_tool("forecast", {"city": "c"})) == "rain in c"
        assert text_of(await session.call_tool("forecast", {"city": "d"})) == "rain in d"
    assert forecast.called
    assert forecast.calls == [{"city": city} for city in "abcd"]
    assert server.unused == []
    assert repr(forecast) == "<Script tools/call 'forecast': called 4 times>"


async def test_what_is_scripted_again_is_replaced() -> None:
    server = ScriptedServer()
    server.on_tool("forecast", "sun", description="old")
    server.on_tool("forecast", "rain")
    async with by_connect(server) as session:
        assert text_of(await session.call_tool("forecast")) == "rain"
        assert [tool.description for tool in (await session.list_tools()).tools] == [None]


async def test_schemas_are_shown_and_the_sdk_holds_the_answers_against_them() -> None:
    server = ScriptedServer()
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    server.on_tool("count", {"structuredContent": {"n": "x"}}, input_schema=schema, output_schema=schema)
    async with by_connect(server) as session:
        [tool] = (await session.list_tools()).tools
        assert dumped(tool) == {"name": "count", "inputSchema": schema, "outputSchema": schema}
        with pytest.raises(RuntimeError, match="structured content"):
            await session.call_tool("count")


async def test_any_method_is_scripted_raw_the_built_in_ones_too() -> None:
    server = ScriptedServer()
    completion = server.on("completion/complete", {"completion": {"values": ["Oslo"]}})
    server.on("tools/list", lambda params: {"tools": [], "nextCursor": "more"})
    server.on("resources/read", T.ReadResourceResult(contents=[]))
    server.on("resources/subscribe", lambda params: None)
    async with by_connect(server) as session:
        reference = T.PromptReference(type="ref/prompt", name="p")
        completed = await session.complete(reference, {"name": "city", "value": "O"})
        assert completed.completion.values == ["Oslo"]
        assert dumped(await session.list_tools())["nextCursor"] == "more"
        assert (await session.read_resource("memo://9")).contents == []
        await session.subscribe_resource("memo://9")
    assert completion.calls[0]["argument"] == {"name": "city", "value": "O"}


async def test_a_script_of_a_notification_is_called_with_it() -> None:
    server = ScriptedServer()
    heard: list[Any] = []

    async def hear(params: Any) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(params)

    server.on("notifications/roots/list_changed", hear)
    async with by_connect(server) as session:
        await session.send_roots_list_changed()
        await session.send_ping()
        await settled()
    assert heard == [{}]


WRONG: dict[str, Callable[[ScriptedServer], Any]] = {
    "^tools/call 'tool': .*, not with an object of type int$": lambda server: server.on_tool("tool", 3),
    'result, and has "content", .* write \\[block\\]': lambda server: server.on_tool("tool", {"temperature": 3}),
    "a list is one answer, .* not objects of type str; give several": lambda server: server.on_tool("tool", ["a", "b"]),
    "not objects of type NoneType": lambda server: server.on_tool("tool", [None]),
    "ValueError is a class; give an instance": lambda server: server.on_tool("tool", ValueError),
    "<lambda> must take one argument, .*: too many": lambda server: server.on_tool("tool", lambda: "now"),
    "call_soon must take one argument, .*: missing a required argument: 'b'": lambda server: server.on_tool(
        "tool", call_soon
    ),
    "not with an object of type float": lambda server: server.on_resource("memo://1", 1.5),
    "with a str, a dict, a model": lambda server: server.on_prompt("greet", b"hello"),
    r"arguments must be a list of names; write arguments=\['who'\]": lambda server: server.on_prompt(
        "greet", arguments="who"
    ),
    "^ping: .* with a dict, a model, None or an exception": lambda server: server.on("ping", "pong"),
}


def call_soon(a: Any, b: Any) -> None:
    """Takes the arguments one by one, as no script does."""


@pytest.mark.parametrize("complaint", WRONG)
def test_what_is_no_answer_is_refused_at_once(complaint: str) -> None:
    with pytest.raises(InterceptError, match=complaint):
        WRONG[complaint](ScriptedServer())


async def test_nothing_at_all_is_an_empty_answer() -> None:
    server = ScriptedServer()
    server.on_resource("memo://1")
    server.on_prompt("greet")
    server.on_prompt("raw", {"messages": [], "description": "d"})
    server.on_resource("memo://2", {"contents": []})
    async with by_connect(server) as session:
        assert (await session.read_resource("memo://1")).contents == []
        assert (await session.read_resource("memo://2")).contents == []
        assert (await session.get_prompt("greet")).messages == []
        assert (await session.get_prompt("raw")).description == "d"


async def test_what_a_function_answers_and_is_none_fails_the_test_too() -> None:
    server = ScriptedServer()
    server.on_tool("tool", lambda arguments: 3)
    with pytest.raises(InterceptError, match="type int"):  # noqa: PT012 - leaving is what raises
        async with by_connect(server) as session:
            with pytest.raises(Error, match="type int"):
                await session.call_tool("tool")


@only_line_2
async def test_a_question_inside_a_result_stays_as_it_is() -> None:
    question = {
        "method": "elicitation/create",
        "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}},
    }
    server = ScriptedServer()
    server.on_tool(
        "book",
        {"resultType": "input_required", "inputRequests": {"q": question}, "requestState": "s"},
        lambda arguments: "booked",
    )
    async with by_client(server, elicitation_callback=Ears().options["elicitation_callback"]) as client:
        assert text_of(await client.call_tool("book")) == "booked"
    again = server.requests[-1] if server.requests[-1].method == "tools/call" else server.requests[-2]
    assert again.params["requestState"] == "s"


# What has no script.


UNSCRIPTED: dict[str, tuple[Callable[[Any], Any], int, str]] = {
    "unknown tool": (lambda session: session.call_tool("forcast"), -32602, "tools/call 'forcast'; .*: 'forecast'"),
    "no prompts": (lambda session: session.get_prompt("greet"), -32601, "prompts/get 'greet'"),
    "unknown resource": (
        lambda session: session.read_resource("zzz://9"),
        -32602,
        "resources/read 'zzz://9'; what is scripted: 'memo://1', 'memo://2'",
    ),
    "method": (lambda session: session.subscribe_resource("memo://1"), -32601, "resources/subscribe"),
}


def some_server(**options: Any) -> ScriptedServer:
    server = ScriptedServer("weather", **options)
    server.on_tool("forecast")
    server.on_resource("memo://1")
    server.on_resource("memo://2")
    return server


@pytest.mark.parametrize("way", [way for way in WAYS if way in ("connect", "ClientSession")])
@pytest.mark.parametrize("asked", UNSCRIPTED)
async def test_what_has_no_script_is_refused_and_fails_the_test(asked: str, way: str) -> None:
    ask, code, named = UNSCRIPTED[asked]
    with pytest.raises(AssertionError, match=f"<ScriptedServer 'weather'> was asked for .*:\n  {named}\nScript it"):  # noqa: PT012 - leaving is what raises
        async with WAYS[way](some_server()) as session:
            with pytest.raises(Error) as caught:
                await ask(session)
            assert caught.value.error.code == code


@only_line_2
async def test_a_client_that_swallows_a_refusal_fails_as_well() -> None:
    with pytest.raises(AssertionError, match="forcast"):  # noqa: PT012 - leaving is what raises
        async with by_client(some_server()) as client:
            with pytest.raises(Error):
                await client.call_tool("forcast")


async def test_a_lenient_server_only_refuses() -> None:
    server = some_server(strict=False)
    async with by_connect(server) as session:
        with pytest.raises(Error, match="Unknown tool: forcast"):
            await session.call_tool("forcast")
    server.check()


async def test_what_the_test_raises_itself_comes_first() -> None:
    server = some_server()
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012 - leaving is what raises
        async with server.transport() as streams:
            await streams[1].send(message("acme/unheard", 1))
            await streams[0].receive()
            raise ZeroDivisionError("mine")
    assert caught.value.__context__ is None
    # It was not told yet.
    with pytest.raises(AssertionError, match="acme/unheard"):
        server.check()
    server.check()


async def test_an_assertion_in_a_script_fails_the_test_even_if_its_error_is_swallowed() -> None:
    def check(arguments: dict[str, Any]) -> str:
        assert arguments == {"city": "Oslo"}, "another city"
        return "sunny"

    server = ScriptedServer()
    server.on_tool("forecast", check)
    with pytest.raises(AssertionError, match="another city"):  # noqa: PT012 - leaving is what raises
        async with by_connect(server) as session:
            with pytest.raises(Error, match="another city"):
                await session.call_tool("forecast", {"city": "Rome"})


async def test_an_assertion_in_a_script_fails_the_test_of_a_lenient_server() -> None:
    def check(arguments: dict[str, Any]) -> None:
        raise AssertionError("another city")

    server = ScriptedServer(strict=False)
    server.on_tool("forecast", check)
    with pytest.raises(AssertionError, match="another city"):  # noqa: PT012 - leaving is what raises
        async with by_connect(server) as session:
            with pytest.raises(Error):
                await session.call_tool("forecast")
    server.check()


# What it hears.


async def test_what_arrived_is_kept_in_order() -> None:
    server = some_server()
    async with by_connect(server) as session:
        await call(session, "forecast", token="t")
        await session.read_resource("memo://1")
    assert [received.method for received in server.received if received.method != "tools/list"] == [
        "initialize",
        "notifications/initialized",
        "tools/call",
        "resources/read",
    ]
    assert [request.method for request in server.requests] == ["initialize", "tools/call", "resources/read"]
    assert [notification.method for notification in server.notifications] == ["notifications/initialized"]
    handshake, called, read = server.requests
    assert (called.name, called.arguments, called.params["_meta"]["progressToken"]) == ("forecast", {}, "t")
    assert (read.name, read.kind, handshake.name) == ("memo://1", "request", None)
    assert handshake.params["protocolVersion"] == handshake.frame["params"]["protocolVersion"]
    assert server.notifications[0].params == {}
    assert repr(called) == "<Received request tools/call>"
    assert repr(server) == "<ScriptedServer 'weather'>"


async def test_one_can_wait_for_what_arrives() -> None:
    server = some_server()
    async with by_connect(server) as session, anyio.create_task_group() as tasks:
        tasks.start_soon(session.call_tool, "forecast", {"city": "a"})
        assert (await server.wait_for("tools/call")).arguments == {"city": "a"}
        tasks.start_soon(session.call_tool, "forecast", {"city": "b"})
        assert (await server.wait_for("tools/call", 2)).arguments == {"city": "b"}
        assert (await server.wait_for("tools/call", 1)).arguments == {"city": "a"}


async def test_waiting_ends_and_says_what_arrived_instead() -> None:
    server = some_server()
    with pytest.raises(TimeoutError, match="no tools/call arrived within 0 seconds; what arrived: nothing"):
        await server.wait_for("tools/call", timeout=0)
    async with by_connect(server):
        with pytest.raises(TimeoutError, match="no 2. initialize .* what arrived: initialize, notifications/initia"):
            await server.wait_for("initialize", 2, timeout=0.01)


async def test_waiting_can_be_given_up() -> None:
    server = some_server()
    async with by_connect(server):
        with anyio.move_on_after(0.01) as scope:
            await server.wait_for("tools/call")
        assert scope.cancelled_caught


# What it says by itself.


async def test_notifications_reach_every_client() -> None:
    server = ScriptedServer()
    one, other = Ears(), Ears()
    async with by_connect(server, **one.options), by_connect(server, **other.options):
        server.notify("notifications/tools/list_changed")
        server.notify("notifications/message", {"level": "info", "data": "d"})
        await settled()
    assert one.heard == other.heard
    assert [entry[1].get("method", entry[1]) for entry in one.heard] == [
        "notifications/tools/list_changed",
        {"level": "info", "data": "d"},
        "notifications/message",
    ]


async def test_a_script_reports_progress_to_who_wants_it() -> None:
    server = ScriptedServer()
    reported: list[Any] = []

    def climb(arguments: Any) -> str:
        server.progress(1, total=2, message="half")
        server.progress(2)
        return "there"

    async def report(*progress: Any) -> None:
        reported.append(progress)

    server.on_tool("climb", climb)
    ears = Ears()
    async with by_connect(server, **ears.options) as session:
        await session.call_tool("climb")
        assert ears.heard == []
        await session.call_tool("climb", progress_callback=report)
        await settled()
    assert reported == [(1, 2, "half"), (2, None, None)]


async def test_a_script_asks_the_client_that_it_answers() -> None:
    server = ScriptedServer()
    sure = {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}

    async def book(arguments: Any) -> str:
        answer = await server.ask("elicitation/create", sure)
        return f"{answer['action']} {answer['content']}"

    server.on_tool("book", book)
    ears = Ears()
    async with by_connect(server, **ears.options) as session, by_connect(server):
        assert text_of(await session.call_tool("book")) == "accept {'n': 1}"
    assert [entry[0] for entry in ears.heard] == ["elicitation"]


async def test_a_script_of_one_server_speaks_to_the_client_of_another() -> None:
    one, other = ScriptedServer("one"), ScriptedServer("other")
    ears = Ears()

    async def ask_around(arguments: Any) -> str:
        await other.ask("roots/list")
        with pytest.raises(InterceptError, match="functions of a script"):
            other.progress(1)
        one.progress(1)
        return "done"

    one.on_tool("ask", ask_around)
    async with by_connect(other, **ears.options), by_connect(one) as session:
        assert text_of(await session.call_tool("ask")) == "done"
    assert [entry[0] for entry in ears.heard] == ["roots"]


async def test_a_script_that_calls_a_server_with_scripts_of_its_own_still_asks_its_client() -> None:
    outer, inner = ScriptedServer("outer"), ScriptedServer("inner")
    ears = Ears()

    async def ask_outside(arguments: Any) -> None:
        await outer.ask("roots/list")

    async def pass_on(arguments: Any) -> str:
        async with by_connect(inner) as session:
            await session.call_tool("ask")
        return "done"

    inner.on_tool("ask", ask_outside)
    outer.on_tool("pass on", pass_on)
    async with by_connect(outer, **ears.options) as session, by_connect(outer):
        await session.call_tool("pass on")
    assert [entry[0] for entry in ears.heard] == ["roots"]


async def test_a_question_that_is_refused_raises_the_error() -> None:
    server = ScriptedServer()
    async with by_connect(server):
        with pytest.raises(Error) as caught:
            await server.ask("roots/list")
        assert caught.value.error.code == types.INVALID_REQUEST
        assert await server.ask("ping") == {}


async def test_a_question_that_is_given_up_is_taken_back() -> None:
    server = ScriptedServer()
    given_up = anyio.Event()

    async def think(context: Any) -> Any:
        await context.session.send_ping()  # has line 1 read on
        try:
            await anyio.sleep_forever()
        finally:
            given_up.set()

    async def look(context: Any, call_next: Any) -> Any:
        return await call_next(context)

    async with connect(server.transport(), look, list_roots_callback=think):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.ask, "roots/list")
            await server.wait_for("ping")
            await settled()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await given_up.wait()


async def test_a_question_nobody_asked_is_no_answer() -> None:
    server = ScriptedServer()
    async with server.transport() as (read, write):
        from mcp_intercept.testing._line import session_message

        await write.send(session_message({"jsonrpc": "2.0", "id": "nobody's", "result": {}}))
        await write.send(message("ping", 1))
        assert (await read.receive()) is not None
    assert [request.method for request in server.requests] == ["ping"]


ALONE: dict[str, Callable[[ScriptedServer], Any]] = {
    "notify": lambda server: server.notify("notifications/tools/list_changed"),
    "disconnect": lambda server: server.disconnect(),
}


@pytest.mark.parametrize("what", ALONE)
async def test_without_a_client_nothing_can_be_said(what: str) -> None:
    server = ScriptedServer()
    with pytest.raises(InterceptError, match="no client is connected to <ScriptedServer 'scripted'>"):
        ALONE[what](server)
    with pytest.raises(InterceptError, match="no client is connected"):
        await server.ask("ping")
    async with by_connect(server):
        with pytest.raises(InterceptError, match="functions of a script"):
            server.progress(1)


# How it ends.


async def test_a_server_that_disconnects_ends_what_waits_and_what_comes() -> None:
    server = ScriptedServer()
    server.on_tool("hang", lambda arguments: anyio.sleep_forever())
    ended: list[Any] = []

    async def hang(session: Any) -> None:
        with pytest.raises(Error) as caught:
            await session.call_tool("hang")
        ended.append((caught.value.error.code, caught.value.error.message))

    async with by_connect(server) as session:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang, session)
            await server.wait_for("tools/call")
            server.disconnect()
        assert ended == [(-32000, "Connection closed")]
        with pytest.raises(anyio.ClosedResourceError if LINE_1 else Error):
            await session.send_ping()
    async with by_connect(server) as session:
        await session.send_ping()
    assert [request.method for request in server.requests].count("ping") == 1


async def test_a_script_may_disconnect_in_the_middle_of_a_call() -> None:
    server = ScriptedServer()
    server.on_tool("crash", lambda arguments: server.disconnect())
    async with by_connect(server) as session:
        with pytest.raises(Error, match="Connection closed"):
            await session.call_tool("crash")


async def test_a_script_that_disconnects_first_cannot_ask() -> None:
    server = ScriptedServer()
    asked: list[Exception] = []

    async def crash(arguments: Any) -> None:
        server.disconnect()
        try:
            await server.ask("ping")
        except Exception as error:
            asked.append(error)

    server.on_tool("crash", crash)
    async with by_connect(server) as session:
        with pytest.raises(Error, match="Connection closed"):
            await session.call_tool("crash")
        await settled()
    assert [str(error) for error in asked] == ["Connection closed"]


async def test_a_disconnected_server_hears_nothing_and_its_questions_end() -> None:
    server = ScriptedServer()
    async with server.transport() as (_, write):
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(Error, match="Connection closed"):
                    await server.ask("ping")

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            server.disconnect()
        await write.send(message("ping", 1))
        await settled()
    assert server.received == []


async def test_a_client_that_hangs_up_ends_what_it_was_asked_and_cannot_be_asked_again() -> None:
    server = ScriptedServer()

    async def ask() -> None:
        with pytest.raises(Error, match="Connection closed"):
            await server.ask("ping")

    async with server.transport() as (read, write):
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await read.receive()
                await write.aclose()
        with pytest.raises(InterceptError, match="no client is connected"):
            await server.ask("ping")


@every_way
async def test_a_call_that_is_given_up_is_given_up_by_the_server(way: str) -> None:
    server = ScriptedServer()
    given_up = anyio.Event()

    async def hang(arguments: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            given_up.set()

    server.on_tool("hang", hang)
    async with WAYS[way](server) as session:
        with anyio.move_on_after(0.01) as scope:
            await session.call_tool("hang")
        assert scope.cancelled_caught
        if not (LINE_1 and way == "ClientSession"):  # which tells nobody
            with anyio.fail_after(30):
                await given_up.wait()
    assert given_up.is_set()


async def test_what_is_given_up_and_unknown_is_nothing() -> None:
    server = ScriptedServer()
    async with server.transport() as (read, write):
        await write.send(message("notifications/cancelled", params={"requestId": 9}))
        await write.send(message("ping", 1))
        await read.receive()
    assert [received.method for received in server.received] == ["notifications/cancelled", "ping"]


async def test_the_transport_can_be_left_at_any_moment() -> None:
    server = ScriptedServer()
    server.on_tool("hang", lambda arguments: anyio.sleep_forever())

    async def hang() -> None:
        async with by_connect(server) as session:
            await session.call_tool("hang")

    for number in (1, 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang)
            await server.wait_for("tools/call", number)
            tasks.cancel_scope.cancel()
    async with server.transport() as (_, write):
        await write.send(message("tools/call", 1, {"name": "hang"}))
        await server.wait_for("tools/call", 3)


async def test_an_answer_nobody_waits_for_is_lost() -> None:
    server = ScriptedServer()
    leave = anyio.Event()

    async def slow(arguments: Any) -> str:
        await leave.wait()
        return "late"

    server.on_tool("slow", slow)
    async with server.transport() as (read, write):
        await write.send(message("tools/call", 1, {"name": "slow"}))
        await server.wait_for("tools/call")
        await read.aclose()
        leave.set()
        await settled()


@pytest.mark.parametrize("meta", [None, "m", []])
async def test_a_request_whose_meta_is_no_object_is_answered(meta: Any) -> None:
    server = ScriptedServer()
    server.on_tool("climb", lambda arguments: server.progress(1))
    async with server.transport() as (read, write):
        await write.send(message("tools/call", 1, {"name": "climb", "_meta": meta}))
        answer = (await read.receive()).message
    assert (answer.root if LINE_1 else answer).result == {"content": []}


async def test_what_ends_the_test_run_is_not_held_back() -> None:
    server = ScriptedServer()

    class EndOfRun(BaseException):
        pass

    server.on_tool("tool", failing(EndOfRun()))
    with pytest.raises(EndOfRun):  # noqa: PT012 - leaving is what raises
        async with server.transport() as (read, write):
            await write.send(message("tools/call", 1, {"name": "tool"}))
            await read.receive()


async def test_what_is_no_message_breaks_the_connection() -> None:
    server = ScriptedServer()
    with pytest.raises(AttributeError):  # noqa: PT012 - leaving is what raises
        async with server.transport() as (_, write):
            await write.send("junk")
            await anyio.sleep_forever()
