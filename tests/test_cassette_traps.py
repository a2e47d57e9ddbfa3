"""What breaks tools that record and replay: each trap is a test, on both loops and both lines.

Tests that are called after a trap come first, in the order in which peers fell in; below them is what else replays,
or is refused.
"""

# ruff: noqa: ASYNC240, PT012, PT031 - files are small here; and what is raised is raised by the end of a block.

from __future__ import annotations

import ast
import json
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from mcp import ClientSession

# By name and before anything is recorded, as frameworks do it.
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from mcp_intercept import Cassette, connect, intercept, use_cassette
from mcp_intercept._current import current_cassette
from mcp_intercept.errors import (
    CassetteDriftError,
    CassetteError,
    CassetteFormatError,
    CassetteMissError,
    CassetteWarning,
    InterceptError,
    SessionStateError,
)
from mcp_intercept.recording.lines import json_schema
from mcp_intercept.recording.misses import MISS_CODE
from tests.ears import MESSAGE, SCHEMA, Error, T, dumped, settled
from tests.ears import call as call_unchecked
from tests.server import STDIO, http_server, make_server
from tests.wire import LINE_1, RESULTS, Frame, WireServer, never, wire

pytestmark = pytest.mark.anyio

only_line_2 = pytest.mark.skipif(LINE_1, reason="line 1 speaks no later protocol than 2025-11-25")

CASSETTES = Path(__file__).parent / "cassettes"
Script = Callable[[Any], Any]
"""`async (session) -> what came of it`."""


@asynccontextmanager
async def unreachable() -> AsyncGenerator[Any, None]:
    """A transport that must not be opened."""
    raise AssertionError("the transport was opened")
    yield


@asynccontextmanager
async def session_over(transport: AbstractAsyncContextManager[Any], **options: Any) -> AsyncGenerator[Any, None]:
    """A session of the SDK's own, initialized."""
    with anyio.fail_after(60):
        async with transport as streams, ClientSession(streams[0], streams[1], **options) as session:
            await session.initialize()
            yield session


@asynccontextmanager
async def taped(cassette: Cassette, server: str = "w", **options: Any) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A session with a server at wire level, whose messages pass the cassette."""
    async with (
        wire() as (streams, peer),
        session_over(cassette.transport(streams, server=server), **options) as session,
    ):
        yield session, peer


@asynccontextmanager
async def untaped(cassette: Cassette, server: str = "w", **options: Any) -> AsyncGenerator[Any, None]:
    """A session with a server that is not there."""
    async with session_over(cassette.transport(unreachable(), server=server), **options) as session:
        yield session


def each(*modes: Any) -> tuple[Any, ...]:
    """Modes of a cassette, one after the other."""
    return modes


async def said(call: Any) -> str:
    """The text that a tool has answered with, or what was raised instead."""
    try:
        result = await call
    except Error as error:
        return f"{error.error.code}: {error.error.message}"
    return "".join(item.text for item in result.content)


async def saying(frame: Frame) -> Frame:
    """Answer a call with its name and arguments."""
    params = frame["params"]
    text = f"{params['name']} {json.dumps(params.get('arguments', {}), sort_keys=True)}"
    return {"content": [{"type": "text", "text": text}]}


async def call_plainly(session: Any, name: str, arguments: dict[str, Any]) -> Any:
    """Call a tool, without the SDK asking for its schema afterwards."""
    params = {"name": name, "arguments": arguments}
    message = T.CallToolRequest.model_validate({"method": "tools/call", "params": params})
    return await session.send_request(T.ClientRequest(message) if LINE_1 else message, T.CallToolResult)


async def together(session: Any, calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The answers to calls that are made at the same time."""
    answers = [""] * len(calls)

    async def one(place: int) -> None:
        name, arguments = calls[place]
        answers[place] = await said(session.call_tool(name, arguments))

    async with anyio.create_task_group() as tasks:
        for place in range(len(calls)):
            tasks.start_soon(one, place)
    return answers


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def leaf(error: BaseException) -> BaseException:
    while inside := getattr(error, "exceptions", ()):
        error = inside[0]
    return error


# The traps.

MANY = [(f"tool-{number}", {"n": number}) for number in range(10)]
SAME = [("tool", {"n": number}) for number in range(10)]


@pytest.mark.parametrize("calls", [MANY, SAME], ids=["never-listed", "listed"])
async def test_ten_concurrent_calls_replay_in_any_order(
    tmp_path: Path, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    path = tmp_path / "ten.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            live = await together(session, calls)
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await together(session, calls) == live
        assert not cassette.unused
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert (await together(session, calls[::-1]))[::-1] == live
    assert live == [f'{name} {{"n": {arguments["n"]}}}' for name, arguments in calls]


async def test_a_tracer_that_adds_a_traceparent_to_meta_still_replays(tmp_path: Path) -> None:
    path = tmp_path / "trace.mcp.jsonl"

    async def call(session: Any, traceparent: str | None) -> Any:
        meta = {} if traceparent is None else {"_meta": {"traceparent": traceparent, "acme/tenant": traceparent}}
        params = {"name": "x", "arguments": {"a": 1}, **meta}
        message = T.CallToolRequest.model_validate({"method": "tools/call", "params": params})
        return await session.send_request(T.ClientRequest(message) if LINE_1 else message, T.CallToolResult)

    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            live = await said(call(session, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
            assert "0af7651916cd" in json.dumps(server.frames)
    assert "traceparent" not in path.read_text()
    assert "acme/tenant" not in path.read_text()
    for traceparent in (None, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"):
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                assert await said(call(session, traceparent)) == live


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18"])
async def test_another_client_info_or_sdk_version_at_replay_is_no_miss(tmp_path: Path, version: str) -> None:
    path = tmp_path / "info.mcp.jsonl"
    with use_cassette(path) as cassette:
        info = T.Implementation(name="recorder", version="1")
        async with taped(cassette, client_info=info) as (session, server):
            server.answers["tools/call"] = saying
            live = await said(session.call_tool("x", {"a": 1}))
    path.write_text(path.read_text().replace('"protocolVersion":"2025-11-25"', f'"protocolVersion":"{version}"'))

    async def answer(*_: Any) -> Any:
        raise AssertionError("nobody asks")

    with use_cassette(path, mode="none") as cassette:
        info = T.Implementation(name="player", version="2")
        async with untaped(cassette, client_info=info, sampling_callback=answer) as session:
            assert await said(session.call_tool("x", {"a": 1})) == live


async def test_fields_called_input_tokens_progress_token_or_api_key_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "fields.mcp.jsonl"
    secret = "sk-proj-Zk4x8QnLw2Rt6Yp0Vb3Mh7Jd9Sf1Ga5C"
    schema = {
        "type": "object",
        "properties": {
            "api_key": {"type": "string"},
            "input_tokens": {"type": "integer"},
            "progressToken": {"type": "string"},
        },
        "required": ["api_key"],
    }
    asked = {"messages": [MESSAGE], "maxTokens": 7}
    arguments = {"api_key": secret, "input_tokens": 12, "progressToken": "p"}

    async def sample(context: Any, params: Any) -> Any:
        assert dumped(params)["maxTokens"] == 7
        text = T.TextContent(type="text", text="hi")
        return T.CreateMessageResult(role="assistant", content=text, model="m")

    async def use(session: Any) -> Any:
        steps: list[Any] = []

        async def step(done: float, total: float | None, message: str | None) -> None:
            steps.append((done, total, message))

        tools = dumped(await session.list_tools())
        text = await said(session.call_tool("x", arguments, progress_callback=step))
        return tools["tools"][0]["inputSchema"], text, steps

    with use_cassette(path) as cassette:
        async with taped(cassette, sampling_callback=sample) as (session, server):

            async def list_tools(frame: Frame) -> Frame:
                return {"tools": [{"name": "x", "inputSchema": schema}]}

            async def call(frame: Frame) -> Frame:
                assert frame["params"]["arguments"] == arguments  # the server gets what was meant
                token = frame["params"]["_meta"]["progressToken"]
                await server.notify("notifications/progress", {"progressToken": token, "progress": 1, "total": 2})
                answer = await server.ask("sampling/createMessage", asked)
                return {"content": [{"type": "text", "text": answer["result"]["model"]}]}

            server.answers |= {"tools/list": list_tools, "tools/call": call}
            live = await use(session)
    assert live == (schema, "m", [(1, 2, None)])
    assert secret not in path.read_text()
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette, sampling_callback=sample) as session:
            assert await use(session) == live


@pytest.mark.parametrize("token", ["at-123456789abc", "Zk4x8QnLw2Rt6Yp0Vb3Mh7Jd9Sf1Ga5C"])
async def test_what_was_a_secret_is_one_wherever_it_is_said_again(tmp_path: Path, token: str) -> None:
    path = tmp_path / "tokens.mcp.jsonl"
    password = "hunter2secretX"

    async def answer(frame: Frame) -> Frame:
        arguments = frame["params"]["arguments"]
        texts = {
            "login": f"welcome {arguments.get('user')}, {arguments.get('password')!r} is right",
            "begin": json.dumps({"note": f"send {token}", "access_token": token}),
        }
        text = texts.get(frame["params"]["name"], f"used {arguments}")
        return {"content": [{"type": "text", "text": text}]}

    async def use(session: Any) -> list[str]:
        welcome = (await call_plainly(session, "login", {"user": "bob", "password": password})).content[0].text
        given = json.loads((await call_plainly(session, "begin", {})).content[0].text)["access_token"]
        asked = [
            {"x": given},
            {"headers": [f"Bearer {given}"], "limit": 3},
            {"q": password},
            {"q": welcome.split("'")[1]},
            {"secret": "sunflower", "pin": "a4"},
            {"q": "seeds of a sunflower on a4"},  # words stand in many places for something else
        ]
        return [(await call_plainly(session, "use", arguments)).content[0].text for arguments in asked]

    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = answer
            live = await use(session)
    assert token in live[0]
    written = path.read_text(encoding="utf-8")
    assert token not in written
    assert password not in written
    assert "welcome bob" in written
    assert "seeds of a sunflower on a4" in written
    with use_cassette(path, mode="none", unused="fail") as cassette:
        async with untaped(cassette) as session:
            assert len(await use(session)) == len(live)
    with use_cassette(path, mode="verify") as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = answer
            assert await use(session) == live


async def test_two_sessions_in_one_file_get_their_own_answers_also_with_new_episodes(tmp_path: Path) -> None:
    path = tmp_path / "two.mcp.jsonl"

    def naming(name: str) -> Any:
        async def answer(frame: Frame) -> Frame:
            return {"content": [{"type": "text", "text": name}]}

        return answer

    with use_cassette(path) as cassette:
        for name in ("first", "second"):
            async with taped(cassette) as (session, server):
                server.answers["tools/call"] = naming(name)
                assert await said(session.call_tool("tool", {})) == name
    for mode in each("none", "new_episodes"):
        with use_cassette(path, mode=mode) as cassette:
            async with untaped(cassette) as one, untaped(cassette) as other:
                # The other way round: each connection has its own answers.
                assert await said(other.call_tool("tool", {})) == "second"
                assert await said(one.call_tool("tool", {})) == "first"
    before = path.read_bytes().splitlines()[:-1]
    with use_cassette(path, mode="new_episodes") as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = naming("third")
            assert await said(session.call_tool("tool", {})) == "first"
            assert await said(session.call_tool("tool", {"new": True})) == "third"
    assert path.read_bytes().splitlines()[: len(before)] == before
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await said(session.call_tool("tool", {"new": True})) == "third"
            assert await said(session.call_tool("tool", {})) == "first"


async def test_calls_answered_as_sse_are_executed_once(tmp_path: Path) -> None:
    path = tmp_path / "sse.mcp.jsonl"
    calls: list[str] = []
    kinds: set[str] = set()

    async def note(request: Any) -> None:
        if b'"tools/call"' in request.content:
            calls.append(request.url.path)

    async def note_kind(response: Any) -> None:
        if b'"tools/call"' in response.request.content:
            kinds.add(response.headers["content-type"])

    with http_server() as url:
        with use_cassette(path, mode="once") as cassette:
            async with create_mcp_http_client() as client:
                client.event_hooks = {"request": [note], "response": [note_kind]}
                async with connect(url, http_client=client) as session:
                    assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"
        assert len(calls) == 1
        assert kinds == {"text/event-stream"}
    with use_cassette(path, mode="none") as cassette:
        async with connect(url) as session:  # where nobody listens any longer
            assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"
    assert cassette.misses == ()


@only_line_2
async def test_protocol_2026_07_28_over_http_replays_as_such(tmp_path: Path) -> None:
    path = tmp_path / "modern.mcp.jsonl"
    with http_server() as url, use_cassette(path):
        async with connect(url, mode="auto") as session:
            live = await said(session.call_tool("add", {"a": 1, "b": 2}))
            assert session.protocol_version == "2026-07-28"
    assert next(line["request"] for line in lines_of(path) if "request" in line) == "server/discover"
    with use_cassette(path, mode="none"):
        async with connect(url, mode="auto") as session:
            assert await said(session.call_tool("add", {"a": 1, "b": 2})) == live == "3"
            assert session.protocol_version == "2026-07-28"


@pytest.mark.filterwarnings("ignore:.*only the order in which they are opened")
async def test_two_servers_in_a_test_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "servers.mcp.jsonl"

    def server(name: str) -> Any:
        made = make_server()
        made.tool(name="who")(lambda: name)
        return made

    with use_cassette(path) as cassette:
        servers = [server("one"), server("two")]
        async with (
            session_over(cassette.transport(servers[0])) as one,
            session_over(cassette.transport(servers[1])) as two,
        ):
            assert [await said(session.call_tool("who", {})) for session in (one, two)] == ["one", "two"]
    with use_cassette(path, mode="none") as cassette:
        servers = [server("nobody"), server("nobody")]
        async with (
            session_over(cassette.transport(servers[0])) as one,
            session_over(cassette.transport(servers[1])) as two,
        ):
            assert [await said(session.call_tool("who", {})) for session in (two, one)] == ["two", "one"]
    assert {line["server"] for line in lines_of(path) if "server" in line} == {"tests", "tests-2"}


def answering_late(seed: int) -> Script:
    """Ten calls at once of a server that answers in an order of chance, after as many steps as chance wants."""

    async def script(session_and_server: Any) -> None:
        session, server = session_and_server
        chance = random.Random(seed)

        def late(answer: Any) -> Any:
            async def answer_late(frame: Frame) -> Frame:
                token = frame.get("params", {}).get("_meta", {}).get("progressToken")
                if token is not None:
                    await server.notify("notifications/progress", {"progressToken": token, "progress": 1})
                for _ in range(chance.randrange(60)):
                    await checkpoint()
                result: Frame = await answer(frame)
                return result

            return answer_late

        async def listing(frame: Frame) -> Frame:
            return dict(RESULTS["tools/list"])

        async def ignore(*_: Any) -> None:
            pass

        server.answers |= {"tools/call": late(saying), "tools/list": late(listing)}
        async with anyio.create_task_group() as tasks:
            for name, arguments in [*MANY, *SAME]:
                tasks.start_soon(said, session.call_tool(name, arguments, progress_callback=ignore))
        await said(session.call_tool("tool", {"n": "last"}))

    return script


def in_turn(seed: int) -> Script:
    """Tasks that make several calls each."""

    async def script(session_and_server: Any) -> None:
        session, server = session_and_server
        chance = random.Random(seed)

        async def late(frame: Frame) -> Frame:
            for _ in range(chance.randrange(20)):
                await checkpoint()
            return await saying(frame)

        async def task(number: int) -> None:
            for turn in range(3):
                await call_unchecked(session, f"tool-{number}-{turn}")

        server.answers["tools/call"] = late
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(task, number)

    return script


@pytest.mark.parametrize("script", [answering_late, in_turn])
async def test_recording_the_same_script_again_changes_no_line(tmp_path: Path, script: Callable[[int], Script]) -> None:
    path = tmp_path / "again.mcp.jsonl"
    recordings: list[list[str]] = []
    for seed in range(6):
        with use_cassette(path, mode="rewrite") as cassette:
            async with taped(cassette) as session_and_server:
                await script(seed)(session_and_server)
        recordings.append(path.read_text().splitlines())
    for recording in recordings[1:]:
        assert recording == recordings[0]


async def test_recording_a_real_server_again_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "real.mcp.jsonl"

    async def elicit(context: Any, params: Any) -> Any:
        return T.ElicitResult(action="accept", content={"number": 3})

    async def hear(*_: Any) -> None:
        pass

    recordings: list[bytes] = []
    for _ in range(2):
        with use_cassette(path, mode="rewrite") as cassette:
            async with session_over(cassette.transport(make_server()), elicitation_callback=elicit) as session:
                await together(session, [("add", {"a": number, "b": 1}) for number in range(10)])
                await session.call_tool("steps", {"count": 3}, progress_callback=hear)
                await session.call_tool("ask", {})
                await session.call_tool("fail", {})
                await session.list_resources()
        recordings.append(path.read_bytes())
    assert recordings[0] == recordings[1]
    assert b'"server_request":"elicitation/create"' in recordings[0]


async def test_a_swallowed_miss_fails_the_block(tmp_path: Path) -> None:
    path = tmp_path / "miss.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            await session.call_tool("tool", {"city": "Oslo"})
    with pytest.raises(CassetteMissError, match="no answer to 1 request") as failed:
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                with pytest.raises(Error) as refused:  # which an agent would show its model, and go on
                    await session.call_tool("tool", {"city": "Rome"})
                assert refused.value.error.code == MISS_CODE
    assert failed.value.misses == cassette.misses
    [miss] = cassette.misses
    assert (miss.reason, miss.name, miss.params["arguments"]) == ("arguments differ", "tool", {"city": "Rome"})
    assert [(d.pointer, d.recorded, d.found) for d in miss.nearest[0].differences] == [
        ("/arguments/city", '"Oslo"', '"Rome"')
    ]
    assert str(path) in str(failed.value)
    assert "new_episodes" in str(failed.value)
    assert "'city'" in str(failed.value)


async def test_a_result_of_20_mb_replays(tmp_path: Path) -> None:
    path = tmp_path / "large.mcp.jsonl"
    text = "".join(random.Random(1).choices("abc \n€", k=20_000_000))

    async def answer(frame: Frame) -> Frame:
        return {"content": [{"type": "text", "text": text}]}

    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = answer
            assert await said(session.call_tool("tool", {})) == text
    assert path.stat().st_size < 10_000
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await said(session.call_tool("tool", {})) == text


async def test_a_line_over_16_mib_replays(tmp_path: Path) -> None:
    path = tmp_path / "long.mcp.jsonl"
    numbers = list(range(2_500_000))

    async def answer(frame: Frame) -> Frame:
        return {"content": [], "structuredContent": {"numbers": numbers}}

    async def use(session: Any) -> bool:
        message = T.CallToolRequest.model_validate({"method": "tools/call", "params": {"name": "x"}})
        result = await session.send_request(T.ClientRequest(message) if LINE_1 else message, T.CallToolResult)
        return bool(dumped(result)["structuredContent"] == {"numbers": numbers})

    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = answer
            assert await use(session)
    assert max(map(len, path.read_bytes().splitlines())) > 16 * 1024 * 1024
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await use(session)


async def asks_to_sample(server: WireServer) -> None:
    async def call(frame: Frame) -> Frame:
        answer = await server.ask("sampling/createMessage", {"messages": [MESSAGE], "maxTokens": 7})
        text = answer["result"]["content"]["text"] if "result" in answer else "refused"
        return {"content": [{"type": "text", "text": text}]}

    server.answers["tools/call"] = call


def samples(text: str) -> Any:
    async def sample(context: Any, params: Any) -> Any:
        content = T.TextContent(type="text", text=text)
        return T.CreateMessageResult(role="assistant", content=content, model="m")

    return sample


@pytest.mark.parametrize("now", ["refuses", "says something else"])
async def test_sampling_refused_at_replay_is_noticed(tmp_path: Path, now: str) -> None:
    path = tmp_path / "sampling.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with taped(cassette, sampling_callback=samples("hi")) as (session, server):
            await asks_to_sample(server)
            assert await said(session.call_tool("tool", {})) == "hi"
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette, sampling_callback=samples("hi")) as session:
            assert await said(session.call_tool("tool", {})) == "hi"
    with pytest.raises(CassetteMissError, match="answer differs") as failed:
        with use_cassette(path, mode="none") as cassette:
            options = {} if now == "refuses" else {"sampling_callback": samples("ho")}
            async with untaped(cassette, **options) as session:
                # The call goes on as it was recorded; what is not as it was is told at the end.
                assert await said(session.call_tool("tool", {})) == "hi"
    assert [miss.reason for miss in failed.value.misses] == ["answer differs"]


async def test_sampling_refused_when_recorded_and_granted_at_replay_is_noticed_too(tmp_path: Path) -> None:
    path = tmp_path / "refused.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            await asks_to_sample(server)
            assert await said(session.call_tool("tool", {})) == "refused"
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await said(session.call_tool("tool", {})) == "refused"
    with pytest.raises(CassetteMissError, match="answer differs"):
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette, sampling_callback=samples("hi")) as session:
                await session.call_tool("tool", {})


async def record_cancelled(path: Path) -> None:
    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = never
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call_unchecked, session, "slow")
                    await server.wait_for("tools/call")
                    scope.cancel()
            await settled()
            server.answers["tools/call"] = saying
            assert await said(session.call_tool("tool", {})) == "tool {}"


async def test_a_cancelled_call_replays_as_such(tmp_path: Path) -> None:
    path = tmp_path / "cancelled.mcp.jsonl"
    await record_cancelled(path)
    # Line 1 says nothing to the server when a call is given up.
    assert [line for line in lines_of(path) if line.get("n") == 3][1:] == (
        [] if LINE_1 else [{"n": 3, "cancelled": True}]
    )
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call_unchecked, session, "slow")
                    await settled()
                    scope.cancel()
            await settled()
            assert await said(session.call_tool("tool", {})) == "tool {}"
        assert not cassette.unused


async def test_who_waits_at_replay_for_a_call_that_was_cancelled_is_told_so_when_patience_ends(tmp_path: Path) -> None:
    path = tmp_path / "cancelled.mcp.jsonl"
    await record_cancelled(path)
    with nullcontext() if LINE_1 else pytest.raises(CassetteMissError, match="left waiting"):  # line 1 does not cancel
        with use_cassette(path, mode="none", patience=0.05) as cassette:
            async with untaped(cassette) as session:
                with anyio.fail_after(30):
                    with pytest.raises(Error, match="left waiting"):
                        await call_unchecked(session, "slow")


async def test_a_server_that_died_mid_call_dies_again_at_replay(tmp_path: Path) -> None:
    path = tmp_path / "died.mcp.jsonl"

    async def use(session: Any) -> list[str]:
        return [await said(session.call_tool("good", {})), await said(session.call_tool("bad", {}))]

    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):

            async def die(frame: Frame) -> Frame | None:
                if frame["params"]["name"] == "good":
                    return await saying(frame)
                await server.close()
                return None

            server.answers["tools/call"] = die
            live = await use(session)
    assert [line["closed"] for line in lines_of(path) if "closed" in line] == ["end of stream"]
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await use(session) == live == ["good {}", "-32000: Connection closed"]


async def test_a_real_server_that_is_killed_mid_call_dies_again_at_replay(tmp_path: Path) -> None:
    path = tmp_path / "killed.mcp.jsonl"
    command = [sys.executable, str(Path(__file__).parent / "misbehaving.py"), "killed"]
    ends: list[str] = []
    for mode in each("once", "none"):
        with use_cassette(path, mode=mode, unused="fail"):
            with anyio.fail_after(60):
                async with connect(command) as session:
                    ends.append(await said(session.call_tool("bad", {})))
                    # It is not sent, and so it is nothing that a replay could miss.
                    with pytest.raises((Error, anyio.ClosedResourceError)):
                        await session.call_tool("bad", {})
    assert ends == ["-32000: Connection closed"] * 2
    assert [line["request"] for line in lines_of(path) if "request" in line].count("tools/call") == 1


# What a recording has in it, whoever recorded it: the cassettes in the repository replay on either line.


async def whole_script(session: Any) -> list[Any]:
    """One of everything, and what came of it."""
    steps: list[Any] = []

    async def step(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total))

    tools = sorted(tool["name"] for tool in dumped(await session.list_tools())["tools"])
    called = await said(session.call_tool("add", {"a": 1, "b": 2}))
    reported = await said(session.call_tool("steps", {"count": 3}, progress_callback=step))
    asked = await said(session.call_tool("ask", {}))
    failed = dumped(await session.call_tool("fail", {})).get("isError")
    with pytest.raises(Error) as refused:
        await session.get_prompt("nobody's", {})
    unknown = refused.value.error.code
    memo = dumped(await session.read_resource("memo://1"))["contents"][0]["text"]
    prompt = dumped(await session.get_prompt("greet", {"name": "Ann"}))["messages"][0]["content"]["text"]
    return [tools, called, reported, steps, asked, failed, unknown, memo, prompt]


async def accepting(context: Any, params: Any) -> Any:
    return T.ElicitResult(action="accept", content={"number": 3})


def asking_in_rounds() -> Any:
    """The server of the tests, where `ask` asks as protocol 2026-07-28 has it: in its answers, and twice."""
    server = make_server()
    server.remove_tool("ask")

    async def ask(ctx: Any) -> Any:
        answers = ctx.input_responses or {}
        turn = int(ctx.request_state or "0")
        if turn == 2:
            return T.CallToolResult(content=[T.TextContent(type="text", text=answers["q"].action)])
        schema = {"type": "object", "properties": {"number": {"type": "integer"}}}
        params = T.ElicitRequestFormParams(message=f"How many? ({turn})", requested_schema=schema)
        return T.InputRequiredResult(input_requests={"q": T.ElicitRequest(params=params)}, request_state=str(turn + 1))

    from mcp.server.mcpserver import Context

    ask.__annotations__ = {"ctx": Context, "return": T.CallToolResult | T.InputRequiredResult}
    server.tool()(ask)
    return server


def client_over(transport: Any, mode: Any, **options: Any) -> Any:
    """A client that makes a call again when its answer is a question, as a session does not."""
    if LINE_1:
        return connect(transport, **options)
    from mcp import Client

    return Client(transport, mode=mode, **options)


async def record_cassettes() -> None:
    """Record the cassettes in the repository of which this SDK is: `python -m tests.test_cassette_traps`."""
    eras: list[tuple[str, Any, Any]] = [("line1", "legacy", make_server())]
    if not LINE_1:
        eras = [("line2-2025", "legacy", make_server()), ("line2-2026", "auto", asking_in_rounds())]
    for name, mode, server in eras:
        with use_cassette(CASSETTES / f"{name}.mcp.jsonl", mode="rewrite") as cassette:
            transport = cassette.transport(server, server="tests")
            async with client_over(transport, mode, elicitation_callback=accepting) as client:
                print(name, await whole_script(client))


EVERYTHING = ["add", "ask", "echo", "fail", "slow", "steps"]


@pytest.mark.parametrize("name", ["line1", "line2-2025", "line2-2026"])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_cassette_of_either_line_and_era_replays_on_this_one(name: str, mode: Any) -> None:
    path = CASSETTES / f"{name}.mcp.jsonl"
    with use_cassette(path, mode="none") as cassette:
        with anyio.fail_after(30):
            transport = cassette.transport(unreachable(), server="tests")
            async with client_over(transport, mode, elicitation_callback=accepting) as client:
                results = await whole_script(client)
        assert not cassette.unused
    codes = {-32602, -32603, 0}
    unknown = results.pop(6)
    assert unknown in codes
    steps = [(1, 3), (2, 3), (3, 3)]
    assert results == [EVERYTHING, "3", "there", steps, "accept", True, "remember", "Hello Ann"]


@pytest.mark.parametrize("name", ["line1", "line2-2025", "line2-2026"])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_answer_that_differs_is_noticed_in_a_cassette_of_either_line_and_era(name: str, mode: Any) -> None:
    async def declining(context: Any, params: Any) -> Any:
        return T.ElicitResult(action="decline")

    with pytest.raises(CassetteMissError):
        with use_cassette(CASSETTES / f"{name}.mcp.jsonl", mode="none") as cassette:
            with anyio.fail_after(30):
                transport = cassette.transport(unreachable(), server="tests")
                async with client_over(transport, mode, elicitation_callback=declining) as client:
                    await said(client.call_tool("ask", {}))


@pytest.mark.parametrize("name", ["line1", "line2-2025", "line2-2026"])
def test_each_line_of_them_is_as_the_schema_says(name: str) -> None:
    validator = Draft202012Validator(json_schema())
    for line in lines_of(CASSETTES / f"{name}.mcp.jsonl"):
        validator.validate(line)


# Modes.


async def record_one(path: Path, server: str = "w", **arguments: Any) -> None:
    with use_cassette(path, mode="rewrite") as cassette:
        async with taped(cassette, server) as (session, peer):
            peer.answers["tools/call"] = saying
            await session.call_tool("tool", arguments)  # and the list, which the SDK asks for


async def test_new_episodes_opens_the_transport_only_on_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "new.mcp.jsonl"
    await record_one(path, n=1)
    entered: list[str] = []

    @asynccontextmanager
    async def live() -> AsyncGenerator[Any, None]:
        entered.append("live")
        async with wire() as (streams, peer):
            peer.answers["tools/call"] = saying
            yield streams
            methods.extend(peer.methods)

    methods: list[str] = []
    before = path.read_bytes()
    with use_cassette(path, mode="new_episodes") as cassette:
        async with session_over(cassette.transport(live(), server="w")) as session:
            assert await said(session.call_tool("tool", {"n": 1})) == 'tool {"n": 1}'
            assert entered == []
    assert path.read_bytes() == before
    with use_cassette(path, mode="new_episodes") as cassette:
        async with session_over(cassette.transport(live(), server="w")) as session:
            assert await said(session.call_tool("tool", {"n": 2})) == 'tool {"n": 2}'
            assert entered == ["live"]
            assert await said(session.call_tool("tool", {"n": 1})) == 'tool {"n": 1}'
    assert methods[:3] == ["initialize", "notifications/initialized", "tools/call"]
    assert methods.count("tools/call") == 1
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await together(session, [("tool", {"n": 2}), ("tool", {"n": 1})]) == [
                'tool {"n": 2}',
                'tool {"n": 1}',
            ]
        assert not cassette.unused


async def test_new_episodes_with_a_server_that_is_new_makes_the_whole_handshake(tmp_path: Path) -> None:
    path = tmp_path / "new.mcp.jsonl"
    await record_one(path, n=1)
    with use_cassette(path, mode="new_episodes") as cassette:
        async with taped(cassette, "new") as (session, server):
            server.answers["tools/call"] = saying
            assert await said(session.call_tool("tool", {"n": 2})) == 'tool {"n": 2}'
            assert server.methods[:3] == ["initialize", "notifications/initialized", "tools/call"]
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette, "new") as session:
            assert await said(session.call_tool("tool", {"n": 2})) == 'tool {"n": 2}'


async def test_new_episodes_passes_on_progress_questions_and_cancellation_of_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "new.mcp.jsonl"
    await record_one(path, n=1)
    heard: list[float] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        heard.append(done)

    with use_cassette(path, mode="new_episodes") as cassette:
        async with taped(cassette, elicitation_callback=accepting) as (session, server):

            async def answer(frame: Frame) -> Frame:
                token = frame["params"]["_meta"]["progressToken"]
                await server.notify("notifications/progress", {"progressToken": token, "progress": 1})
                asked = {"mode": "form", "message": "?", "requestedSchema": SCHEMA}
                given = await server.ask("elicitation/create", asked)
                return {"content": [{"type": "text", "text": given["result"]["action"]}]}

            server.answers["tools/call"] = answer
            assert await said(session.call_tool("tool", {"n": 2}, progress_callback=hear)) == "accept"
            server.answers["tools/call"] = never
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call_unchecked, session, "slow")
                    await server.wait_for("tools/call", 2)
                    scope.cancel()
            if not LINE_1:
                cancelled = await server.wait_for("notifications/cancelled")
                assert cancelled["params"]["requestId"] == server.sent("tools/call")[1]["id"]
            server.answers["tools/call"] = saying
            assert await said(session.call_tool("tool", {"n": 3})) == 'tool {"n": 3}'
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette, elicitation_callback=accepting) as session:
            assert await said(session.call_tool("tool", {"n": 2}, progress_callback=hear)) == "accept"
            assert await said(session.call_tool("tool", {"n": 3})) == 'tool {"n": 3}'
    assert heard == [1, 1]


async def test_new_episodes_where_the_server_cannot_be_started_says_so(tmp_path: Path) -> None:
    path = tmp_path / "new.mcp.jsonl"
    await record_one(path, n=1)
    before = path.read_bytes()
    gone = StdioServerParameters(command=str(tmp_path / "no-such-server"))
    with pytest.raises(BaseException) as failed:  # noqa: PT011 - a group of either library, with the reason inside
        with use_cassette(path, mode="new_episodes") as cassette:
            with anyio.fail_after(30):
                async with cassette.transport(gone, server="w") as streams, ClientSession(*streams) as session:
                    await session.initialize()
                    await session.call_tool("tool", {"n": 2})
    assert isinstance(leaf(failed.value), FileNotFoundError)
    assert path.read_bytes() == before


async def test_verify_is_silent_while_the_server_answers_as_it_did(tmp_path: Path) -> None:
    path = tmp_path / "verify.mcp.jsonl"
    await record_one(path, n=1)
    before = path.read_bytes()
    with use_cassette(path, mode="verify") as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            await session.call_tool("tool", {"n": 1})
    assert cassette.drifts == ()
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


async def test_verify_fails_on_drift_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "verify.mcp.jsonl"
    await record_one(path, n=1)
    before = path.read_bytes()
    with pytest.raises(CassetteDriftError, match="2 differences") as failed:
        with use_cassette(path, mode="verify") as cassette:
            async with taped(cassette) as (session, _server):
                assert await said(session.call_tool("tool", {"n": 1})) == "done"  # live, not as recorded
                await session.call_tool("tool", {"n": 2})
    assert [drift.n for drift in failed.value.drifts] == [3, 0]
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


async def once_and_now(path: Path, then: Frame, now: Frame, **options: Any) -> None:
    """A call that is answered with `then` when it is recorded, and with `now` when it is verified."""
    for mode, answer in zip(each("rewrite", "verify"), (then, now), strict=True):
        with use_cassette(path, mode=mode, **options) as cassette:
            async with taped(cassette) as (session, server):
                if "content" in answer:
                    server.answers["tools/call"] = partial(answering, answer)
                else:
                    server.answers["tools/call"] = partial(refusing, server, **answer)
                await said(call_plainly(session, "bill", {"of": "Ada"}))


async def answering(answer: Frame, frame: Frame) -> Frame:
    return answer


async def refusing(server: WireServer, frame: Frame, *, code: int, message: str) -> None:
    await server.refuse(frame["id"], code, message)


def bill(made: str, **more: Any) -> Frame:
    """What a server says that gives its structured content as a text, too."""
    structured = {"customer": "Ada Lovelace, London", "month": "2025-01", "total": 42, "made": made, **more}
    return {"content": [{"type": "text", "text": json.dumps(structured, indent=1)}], "structuredContent": structured}


def pasted(report: str, option: str) -> Any:
    """What a report says to give as an option."""
    found = re.search(rf"may differ: {option}=(.*?)(, and so on)?$", report, re.MULTILINE)
    return found and ast.literal_eval(found[1])


async def test_a_drift_tells_where_long_texts_differ_and_what_to_give_if_they_may(tmp_path: Path) -> None:
    path = tmp_path / "bill.mcp.jsonl"
    with pytest.raises(CassetteDriftError) as failed:
        await once_and_now(path, bill("10:15"), bill("10:16"))
    assert str(failed.value).splitlines() == [
        f"{path} is no longer what happens: 1 difference.",
        "",
        "#3 tools/call bill (server w)",
        r"    /result/content/0/text: recorded …, London\",\n \"month\": \"2025-01\",\n \"total\": 42,\n \"made\": "
        r'\"10:15\"\n}", now …, London\",\n \"month\": \"2025-01\",\n \"total\": 42,\n \"made\": \"10:16\"\n}"',
        '    /result/structuredContent/made: recorded "10:15", now "10:16"',
        "  way out   record again with mode='rewrite'; if they may differ: "
        "ignore_results={'bill': ['/result/content/0/text', '/result/structuredContent/made']}",
    ]
    await once_and_now(path, bill("10:15"), bill("10:16"), ignore_results=pasted(str(failed.value), "ignore_results"))


@pytest.mark.parametrize(
    "ignored",
    [
        ["made"],
        {"bill": ["made"]},
        {"tools/call": ["made"]},
        {"bill": ["/made"]},
        ["/structuredContent/made"],
        ["/result/structuredContent/made"],
        ["/structuredContent"],
        "*",
    ],
)
async def test_what_may_differ_in_results_goes_by_names_pointers_and_what_a_report_shows(
    tmp_path: Path, ignored: Any
) -> None:
    def made(when: int, whose: str = "Ada") -> Frame:
        return {"content": [], "structuredContent": {"made": when, "of": {"made": whose}}}

    path = tmp_path / "bill.mcp.jsonl"
    await once_and_now(path, made(1), made(2), ignore_results=ignored)
    with pytest.raises(CassetteDriftError) if "made" in str(ignored) else nullcontext():
        await once_and_now(path, made(1), made(2, "Bob"), ignore_results=ignored)  # of the same name, but elsewhere


THINGS: Frame = {"content": [], "structuredContent": {"result": [{"id": 1}, {"id": 2}], "by": {"a": {"id": 1}}}}
FEWER: Frame = {"content": [], "structuredContent": {"result": [], "by": {"a": {"id": 2}}}}


@pytest.mark.parametrize(
    ("then", "now", "ignored"),
    [
        (THINGS, FEWER, ["result", "/by/a/id"]),
        (THINGS, FEWER, ["/structuredContent/result/*", "by"]),
        (THINGS, FEWER, ["/result/structuredContent/result/0", "/structuredContent/result/1", "by"]),
        ({"code": 5, "message": "at 10:15"}, {"code": 5, "message": "at 10:16"}, ["/error/message"]),
    ],
)
async def test_lists_and_errors_may_differ_too(tmp_path: Path, then: Frame, now: Frame, ignored: list[str]) -> None:
    path = tmp_path / "bill.mcp.jsonl"
    await once_and_now(path, then, now, ignore_results=ignored)
    with pytest.raises(CassetteDriftError) as failed:
        await once_and_now(path, then, now)
    await once_and_now(path, then, now, ignore_results=pasted(str(failed.value), "ignore_results"))


@pytest.mark.parametrize(
    ("then", "now", "ignored", "more"),
    [
        ({"content": []}, {"code": 5, "message": "no"}, None, ""),
        (bill("", **{"k" * 201: 1}), bill("", **{"k" * 201: 2}), None, ""),
        (
            bill("", **{f"k{n}": n for n in range(9)}),
            bill("", **{f"k{n}": -1 - n for n in range(9)}),
            {"bill": ["/result/content/0/text", *(f"/result/structuredContent/k{n}" for n in range(4))]},
            ", and so on",
        ),
    ],
)
async def test_what_cannot_be_ignored_or_is_too_much_is_not_proposed_as_a_whole(
    tmp_path: Path, then: Frame, now: Frame, ignored: Any, more: str
) -> None:
    with pytest.raises(CassetteDriftError) as failed:
        await once_and_now(tmp_path / "bill.mcp.jsonl", then, now)
    last = str(failed.value).splitlines()[-1]
    assert last.startswith("  way out   record again with mode='rewrite'")
    assert pasted(last, "ignore_results") == ignored
    assert last.endswith(more or "'rewrite'")


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ("a" * 78, "a" * 77 + "b", (f'"{"a" * 78}"', f'"{"a" * 77}b"')),
        ("a" * 79, "b" * 79, (f'"{"a" * 79}…', f'"{"b" * 79}…')),
        (f"{'a' * 500}x{'b' * 500}", f"{'a' * 500}y", (f"…{'a' * 26}x{'b' * 53}…", f'…{"a" * 26}y"')),
        ("a" * 500, "a" * 60, (f"…{'a' * 80}…", f'"{"a" * 60}"')),
        (f"{'a' * 500}x", f"{'a' * 500}yz", (f'…{"a" * 77}x"', f'…{"a" * 77}yz"')),
        ("\n" * 500 + "x" * 99, "\n" * 500 + "y" * 99, (rf"…{chr(92)}n" + r"\n" * 12 + "x" * 54 + "…", None)),
        ("a" * 500 + "\x1b[31m\u202e", "a" * 500 + "\x9b\u202e", (None, None)),
        ({"a" * 500: [1]}, "a" * 500, ('{"' + "a" * 78 + "…", '"' + "a" * 79 + "…")),
    ],
)
async def test_of_long_values_the_part_is_shown_in_which_they_differ(
    tmp_path: Path, then: Any, now: Any, told: tuple[str | None, str | None]
) -> None:
    path = tmp_path / "long.mcp.jsonl"
    with pytest.raises(CassetteDriftError) as failed:
        await once_and_now(path, *({"content": [], "structuredContent": {"v": [value]}} for value in (then, now)))
    [difference] = failed.value.drifts[0].differences
    assert difference.pointer == "/result/structuredContent/v/0"
    shown = (difference.recorded, difference.found)
    assert shown == tuple(one or other for one, other in zip(told, shown, strict=True))
    assert len(set(shown)) == 2
    assert all(text.isprintable() and len(text) <= 1000 for text in shown)


async def test_a_report_can_be_printed_whatever_things_are_called(tmp_path: Path) -> None:
    then, now = (bill("", **{"\x1b[31m" + "k" * 1000: n}) for n in (1, 2))
    with pytest.raises(CassetteDriftError) as failed:
        await once_and_now(tmp_path / "bill.mcp.jsonl", then, now)
    lines = str(failed.value).splitlines()
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert any(r"/result/structuredContent/\x1b[31mkkk" in line for line in lines)


async def test_a_request_of_which_nothing_is_known_is_to_be_recorded(tmp_path: Path) -> None:
    path = tmp_path / "verify.mcp.jsonl"
    await record_one(path, n=1)
    with pytest.raises(CassetteDriftError) as failed:
        with use_cassette(path, mode="verify") as cassette:
            async with taped(cassette) as (session, _server):
                await call_plainly(session, "tool", {"n": 2})
    assert str(failed.value.drifts[0]).splitlines() == [
        "not in the cassette: tools/call tool (server w)",
        '    (whole): recorded (nothing), now {"name": "tool", "arguments": {"n": 2}}',
        "  way out   record what is new with mode='new_episodes', or all again with 'rewrite'",
    ]


AT_OSLO: dict[str, Any] = {"place": {"lat": 1, "a/b": [1, 2]}, "a~b": 1}
ELSEWHERE: dict[str, Any] = {"place": {"lat": 2, "a/b": [3, 4]}, "a~b": 2}


@pytest.mark.parametrize(
    "ignored",
    [
        ["place", "a~b"],
        ["/arguments/place", "/a~0b"],
        {"tool": ["/place"], "tools/call": ["/arguments/a~0b"]},
        ["/arguments"],
        ["/place/*", "a~b"],
        None,
    ],
)
async def test_what_may_differ_in_arguments_goes_by_the_same(tmp_path: Path, ignored: Any) -> None:
    path = tmp_path / "lat.mcp.jsonl"
    await record_one(path, **AT_OSLO)

    async def ask(**options: Any) -> None:
        with use_cassette(path, mode="none", **options) as cassette:
            async with untaped(cassette) as session:
                await said(call_plainly(session, "tool", ELSEWHERE))

    if ignored is None:
        with pytest.raises(CassetteMissError) as failed:
            await ask()
        ignored = pasted(str(failed.value), "ignore")
        assert ignored == ["/place/lat", "/place/a~1b/0", "/place/a~1b/1", "/a~0b"]
    await ask(ignore=ignored)


async def missed(path: Path, call: Callable[[Any], Awaitable[object]]) -> str:
    """The report of a call that was not recorded."""
    with pytest.raises(CassetteMissError) as failed:
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                with pytest.raises(Error):
                    await call(session)
    return str(failed.value)


async def test_what_is_completed_may_differ_and_a_resource_goes_by_its_uri(tmp_path: Path) -> None:
    path = tmp_path / "complete.mcp.jsonl"

    async def ask(session: Any, value: str) -> None:
        reference: Any = T.PromptReference(type="ref/prompt", name="greet")
        await session.complete(reference, {"name": "who", "value": value})

    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["completion/complete"] = partial(answering, {"completion": {"values": []}})
            server.answers["resources/read"] = partial(answering, {"contents": [{"uri": "a://b", "text": "then"}]})
            await ask(session, "A")
            await session.read_resource("a://b")
    report = await missed(path, lambda session: ask(session, "B"))
    assert pasted(report, "ignore") == ["/argument/value"]
    for ignored in (["/argument/value"], ["value"], ["/argument"]):
        with use_cassette(path, mode="none", ignore=ignored) as cassette:
            async with untaped(cassette) as session:
                await ask(session, "B")
    with use_cassette(path, mode="verify", ignore_results={"a://b": ["/result/contents/0/text"]}) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["resources/read"] = partial(answering, {"contents": [{"uri": "a://b", "text": "now"}]})
            await session.read_resource("a://b")


async def test_where_there_are_no_arguments_it_is_the_params_that_may_differ(tmp_path: Path) -> None:
    path = tmp_path / "page.mcp.jsonl"

    async def page(session: Any, cursor: str) -> None:
        message = T.ListPromptsRequest.model_validate({"method": "prompts/list", "params": {"cursor": cursor}})
        await session.send_request(T.ClientRequest(message) if LINE_1 else message, T.ListPromptsResult)

    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["prompts/list"] = partial(answering, {"prompts": []})
            await page(session, "then")
    report = await missed(path, lambda session: page(session, "now"))
    assert pasted(report, "ignore") == ["cursor"]
    for ignored in (["cursor"], ["/cursor"], {"prompts/list": "*"}):
        with use_cassette(path, mode="none", ignore=ignored) as cassette:
            async with untaped(cassette) as session:
                await page(session, "now")


async def test_what_somebody_fills_in_may_differ_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "form.mcp.jsonl"
    form = {"type": "object", "properties": {"n": {"type": "integer"}}}

    async def use(transport: Any, n: int) -> None:
        async def fill(*_: Any) -> Any:
            return T.ElicitResult(action="accept", content={"n": n})

        async with session_over(transport, elicitation_callback=fill) as session:
            await call_plainly(session, "tool", {})

    with use_cassette(path) as cassette:
        async with wire() as (streams, server):

            async def asks(frame: Frame) -> Frame:
                await server.ask("elicitation/create", {"message": "?", "requestedSchema": form})
                return {"content": []}

            server.answers["tools/call"] = asks
            await use(cassette.transport(streams, server="w"), 1)
    with pytest.raises(CassetteMissError) as failed:
        with use_cassette(path, mode="none") as cassette:
            await use(cassette.transport(unreachable(), server="w"), 2)
    ignored = pasted(str(failed.value), "ignore_results")
    assert ignored == {"elicitation/create": ["/content/n"]}
    for may_differ in (ignored, ["n"], {"elicitation/create": ["/result/content/n"]}):
        with use_cassette(path, mode="none", ignore_results=may_differ) as cassette:
            await use(cassette.transport(unreachable(), server="w"), 2)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["place/lat"], "'place/lat' is neither a name nor a JSON pointer such as '/place/lat'"),
        (["$.lat"], "'$.lat' is neither a name nor a JSON pointer such as '/place/lat'"),
        (["*"], "'*' means all in place of a list, and nothing in one; write '*', not ['*']"),
        ("", "must be a list of names or JSON pointers, or '*', not ''"),
        ({"tool": {"place": ["lat"]}}, "['tool'] must be a list of names or JSON pointers, or '*', not {'place':"),
    ],
)
@pytest.mark.parametrize("option", ["ignore", "ignore_results"])
def test_what_would_never_be_found_is_refused(tmp_path: Path, option: Any, places: Any, said: str) -> None:
    with pytest.raises(InterceptError, match=f"{option}.*{re.escape(said)}"):
        use_cassette(tmp_path / "x.mcp.jsonl", **{option: places})


@pytest.mark.parametrize("place", ["/result/0/made", "/result/*/made"])
def test_a_result_is_no_list(tmp_path: Path, place: str) -> None:
    with pytest.raises(InterceptError, match=re.escape(f"perhaps '/structuredContent{place}' is meant")):
        use_cassette(tmp_path / "x.mcp.jsonl", ignore_results=[place])
    use_cassette(tmp_path / "x.mcp.jsonl", ignore=[place])  # as an argument may be one, and have this name


async def test_verify_does_not_pass_what_it_could_not_compare(tmp_path: Path) -> None:
    path = tmp_path / "verify.mcp.jsonl"
    await record_one(path, n=1)

    def normalize(method: str, params: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises((CassetteError, ZeroDivisionError)):
        with use_cassette(path, mode="verify", normalize=normalize) as cassette:
            async with taped(cassette) as (session, _server):
                assert await said(session.call_tool("tool", {"n": 2})) == "done"


async def test_off_lets_everything_pass_and_touches_no_file(tmp_path: Path) -> None:
    path = tmp_path / "off.mcp.jsonl"
    path.write_text("no cassette at all")
    with use_cassette(path, mode="off", everywhere=True) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            assert await said(session.call_tool("tool", {})) == "tool {}"
        async with connect(make_server()) as session:
            assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"
    assert path.read_text() == "no cassette at all"
    assert len(list(tmp_path.iterdir())) == 1


async def test_once_records_what_is_not_there_and_then_refuses_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "once.mcp.jsonl"
    with use_cassette(path, mode="once") as cassette:
        assert cassette.is_recording
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            await session.call_tool("tool", {"n": 1})
    with pytest.raises(CassetteMissError):
        with use_cassette(path, mode="once") as cassette:
            assert not cassette.is_recording
            async with untaped(cassette) as session:
                assert await said(session.call_tool("tool", {"n": 1})) == 'tool {"n": 1}'
                await said(session.call_tool("tool", {"n": 1}))  # used up
    assert [miss.reason for miss in cassette.misses] == ["used up"]


async def test_in_ci_nothing_is_recorded_unless_somebody_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ci.mcp.jsonl"
    monkeypatch.setenv("CI", "true")
    with pytest.raises(CassetteMissError, match="as CI is set") as failed:
        with use_cassette(path) as cassette:
            async with cassette.transport(unreachable(), server="w") as streams, ClientSession(*streams) as session:
                with pytest.raises(Error, match="no such file"):
                    await session.initialize()
    assert [miss.reason for miss in failed.value.misses] == ["no cassette"]
    assert list(tmp_path.iterdir()) == []
    await record_one(path, n=1)
    assert path.exists()


async def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "failed.mcp.jsonl"
    await record_one(path, n=1)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        with use_cassette(path, mode="rewrite") as cassette:
            async with taped(cassette) as (session, _server):
                await session.call_tool("tool", {"n": 2})
            raise ZeroDivisionError
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


# Where sessions come from.


async def test_a_replay_opens_no_process_and_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "closed.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with session_over(cassette.transport(make_server(), server="s")) as session:
            await session.call_tool("add", {"a": 1, "b": 2})

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("a process or socket was opened")

    for place, name in ((anyio, "open_process"), (subprocess, "Popen"), (socket.socket, "connect")):
        monkeypatch.setattr(place, name, forbidden)
    url = "http://127.0.0.1:9/mcp"
    for target in (["no-such-command"], StdioServerParameters(command="no-such-command"), url):
        with use_cassette(path, mode="none"):
            async with connect(target, connection_id="s") as session:
                assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"
    with use_cassette(path, mode="none", everywhere=True):
        async with session_over(stdio_client(StdioServerParameters(command="no-such-command"))) as session:
            assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"
    with use_cassette(path, mode="none", everywhere=True):
        async with session_over(streamable_http_client(url)) as session:
            assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"


async def test_everywhere_reaches_those_who_imported_a_transport_by_name_before(tmp_path: Path) -> None:
    path = tmp_path / "everywhere.mcp.jsonl"
    live = StdioServerParameters(command=STDIO[0], args=STDIO[1:])
    with use_cassette(path, everywhere=True):
        async with session_over(stdio_client(live)) as session:
            assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"
    assert {line["server"] for line in lines_of(path) if "server" in line} == {"tests"}
    gone = StdioServerParameters(command="no-such-command", args=["server.py"])
    with use_cassette(path, mode="none", everywhere=True):
        async with session_over(stdio_client(gone)) as session:
            assert await said(session.call_tool("add", {"a": 1, "b": 2})) == "3"
    with pytest.raises(BaseException) as failed:  # noqa: PT011 - a group of either library, with the reason inside
        async with stdio_client(gone):
            pass
    assert isinstance(leaf(failed.value), FileNotFoundError)  # nothing is caught any longer


async def test_everywhere_and_connect_record_each_message_once(tmp_path: Path) -> None:
    path = tmp_path / "both.mcp.jsonl"
    with use_cassette(path, everywhere=True):
        async with connect(STDIO) as session:
            await session.call_tool("add", {"a": 1, "b": 2})
    assert [line["request"] for line in lines_of(path) if "request" in line] == [
        "initialize",
        "tools/call",
        "tools/list",
    ]


@only_line_2
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_in_process_server_of_a_client_of_line_2_is_recorded_with_everywhere(
    tmp_path: Path, mode: Any
) -> None:
    from mcp import Client

    path = tmp_path / "client.mcp.jsonl"
    for recording in each("once", "none"):
        server = make_server()
        with use_cassette(path, mode=recording, everywhere=True):
            with anyio.fail_after(30):
                async with Client(server, mode=mode, elicitation_callback=accepting) as client:
                    assert await said(client.call_tool("add", {"a": 1, "b": 2})) == "3"
                    if mode == "legacy":
                        assert await said(client.call_tool("ask", {})) == "accept"
    assert path.exists()


@only_line_2
async def test_a_client_of_line_2_takes_a_transport_of_the_cassette(tmp_path: Path) -> None:
    from mcp import Client

    path = tmp_path / "client.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with Client(cassette.transport(make_server(), server="s")) as client:
            assert await said(client.call_tool("add", {"a": 1, "b": 2})) == "3"
    with use_cassette(path, mode="none") as cassette:
        async with Client(cassette.transport(unreachable(), server="s")) as client:
            assert await said(client.call_tool("add", {"a": 1, "b": 2})) == "3"


async def test_two_sessions_to_one_server_at_once_replay_as_two(tmp_path: Path) -> None:
    path = tmp_path / "pair.mcp.jsonl"

    async def use(cassette: Cassette, make: Callable[[], Any]) -> list[str]:
        async with make() as (one, _a), make() as (other, _b):
            return [
                *await together(one, [("tool", {"n": number}) for number in range(3)]),
                *await together(other, [("tool", {"n": number}) for number in range(3)]),
            ]

    counted = [0]

    @asynccontextmanager
    async def live(cassette: Cassette) -> AsyncGenerator[Any, None]:
        async with taped(cassette) as (session, server):

            async def answer(frame: Frame) -> Frame:
                counted[0] += 1
                return {"content": [{"type": "text", "text": str(counted[0])}]}

            server.answers["tools/call"] = answer
            yield session, server

    @asynccontextmanager
    async def replayed(cassette: Cassette) -> AsyncGenerator[Any, None]:
        async with untaped(cassette) as session:
            yield session, None

    with use_cassette(path) as cassette:
        recorded = await use(cassette, lambda: live(cassette))
    with use_cassette(path, mode="none") as cassette:
        assert await use(cassette, lambda: replayed(cassette)) == recorded
    assert len(set(recorded)) == 6


def test_a_session_in_another_thread_joins_the_cassette(tmp_path: Path, anyio_backend: str) -> None:
    path = tmp_path / "thread.mcp.jsonl"

    answers: list[str] = []

    async def use(server: Any) -> str:
        async with connect(server, connection_id="s") as session:
            return await said(session.call_tool("add", {"a": 1, "b": 2}))

    def run(server: Any) -> None:
        answers.append(anyio.run(use, server, backend=anyio_backend))

    for mode, server in each(("once", make_server()), ("none", ["no-such-command"])):
        with use_cassette(path, mode=mode):
            threads = [threading.Thread(target=run, args=(server,)) for _ in range(2)]
            for thread in threads:
                thread.start()
                if mode == "once":  # which of two is the first connection would be chance
                    thread.join(20)
            for thread in threads:
                thread.join(20)
    assert answers == ["3"] * 4


# A session whose streams cannot be had.


@asynccontextmanager
async def through_middleware(cassette: Cassette, **options: Any) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A session that was there before, with the cassette in its chain."""
    async with wire() as (streams, server):
        with anyio.fail_after(30):
            async with ClientSession(*streams, **options) as session:
                await session.initialize()
                yield intercept(session, cassette.middleware(server="w")), server


async def test_a_middleware_records_and_replays_the_calls_of_a_session_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "middleware.mcp.jsonl"
    calls = [*MANY, *SAME]
    with use_cassette(path) as cassette:
        async with through_middleware(cassette) as (session, server):
            server.answers["tools/call"] = saying
            live = await together(session, calls)
    with use_cassette(path, mode="none") as cassette:
        async with through_middleware(cassette) as (session, server):
            assert await together(session, calls[::-1]) == live[::-1]
            assert server.sent("tools/call") == []
        assert not cassette.unused


async def test_what_a_middleware_recorded_replays_through_a_transport(tmp_path: Path) -> None:
    path = tmp_path / "middleware.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with through_middleware(cassette) as (session, server):
            server.answers["tools/call"] = saying
            live = await together(session, SAME)
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await together(session, SAME) == live


async def test_what_a_transport_recorded_replays_through_a_middleware(tmp_path: Path) -> None:
    path = tmp_path / "middleware.mcp.jsonl"
    with use_cassette(path) as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            live = await together(session, SAME)
    with use_cassette(path, mode="none") as cassette:
        async with through_middleware(cassette) as (session, server):
            assert await together(session, SAME) == live
            assert server.sent("tools/call") == []


async def test_a_middleware_replays_progress_and_errors_and_takes_questions_as_answered(tmp_path: Path) -> None:
    path = tmp_path / "middleware.mcp.jsonl"
    heard: list[Any] = []

    async def hear(*progress: Any) -> None:
        heard.append(progress)

    async def use(session: Any) -> list[str]:
        return [
            await said(session.call_tool("tool", {"n": 1}, progress_callback=hear)),
            await said(session.call_tool("bad", {})),
        ]

    with use_cassette(path) as cassette:
        async with through_middleware(cassette, elicitation_callback=accepting) as (session, server):

            async def answer(frame: Frame) -> Frame | None:
                if frame["params"]["name"] == "bad":
                    await server.refuse(frame["id"], -32050, "no")
                    return None
                token = frame["params"]["_meta"]["progressToken"]
                progress = {"progressToken": token, "progress": 1, "total": 2, "message": "half"}
                await server.notify("notifications/progress", progress)
                asked = {"mode": "form", "message": "?", "requestedSchema": SCHEMA}
                given = await server.ask("elicitation/create", asked)
                return {"content": [{"type": "text", "text": given["result"]["action"]}]}

            server.answers["tools/call"] = answer
            live = await use(session)
    assert live == ["accept", "-32050: no"]
    with use_cassette(path, mode="none") as cassette:
        async with through_middleware(cassette) as (session, server):
            assert await use(session) == live
            assert server.sent("tools/call") == []
    assert heard == [(1, 2, "half")] * 2


async def test_a_middleware_with_new_episodes_records_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "middleware.mcp.jsonl"
    await record_one(path, n=1)
    with use_cassette(path, mode="new_episodes") as cassette:
        async with through_middleware(cassette) as (session, server):
            server.answers["tools/call"] = saying
            assert await together(session, SAME[1:3]) == ['tool {"n": 1}', 'tool {"n": 2}']
            assert [frame["params"]["arguments"] for frame in server.sent("tools/call")] == [{"n": 2}]
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await together(session, SAME[1:3]) == ['tool {"n": 1}', 'tool {"n": 2}']


async def test_a_middleware_refuses_what_was_not_recorded_and_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "middleware.mcp.jsonl"
    await record_one(path, n=1)
    with pytest.raises(CassetteMissError):
        with use_cassette(path, mode="none") as cassette:
            async with through_middleware(cassette) as (session, server):
                assert (await said(session.call_tool("tool", {"n": 2}))).startswith(f"{MISS_CODE}: ")
                assert server.sent("tools/call") == []


# Cancellation.


async def cancelled_at(step: int, use: Callable[[], Any]) -> bool:
    """Whether `use` had not ended when it was cancelled after so many steps of the loop."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                for _ in range(step):
                    await checkpoint()
                scope.cancel()

            tasks.start_soon(cancel)
            await use()
            tasks.cancel_scope.cancel()
    return scope.cancelled_caught


@pytest.mark.parametrize("kind", ["recorded", "played", "continued"])
async def test_a_call_can_be_cancelled_at_each_await_and_the_session_goes_on(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "steps.mcp.jsonl"
    await record_one(path, n="recorded")
    was_cancelled: list[bool] = []
    dead = 0
    for step in range(25):
        mode: Any = {"recorded": "rewrite", "played": "none", "continued": "new_episodes"}[kind]
        copy = tmp_path / f"{kind}-{step}.mcp.jsonl"
        copy.write_bytes(path.read_bytes())
        arguments = {"n": "new"} if kind == "continued" else {"n": "recorded"}
        ended = False
        with use_cassette(copy, mode=mode) as cassette:
            async with taped(cassette) as (session, server):
                server.answers["tools/call"] = saying
                was_cancelled.append(await cancelled_at(step, partial(call_plainly, session, "tool", arguments)))
                await settled()
                with anyio.fail_after(30):
                    try:
                        assert dumped(await session.list_tools())["tools"]
                    except (anyio.ClosedResourceError, Error):
                        # Line 1's session ends when the answer comes to a call that is being given up, bare or not.
                        assert LINE_1
                        ended = True
        if ended:
            dead += 1
            continue
        with use_cassette(copy, mode="none") as cassette:
            async with untaped(cassette) as session:
                assert dumped(await session.list_tools())["tools"]
    assert was_cancelled[0]
    assert not was_cancelled[-1]
    assert dead < 5


@pytest.mark.parametrize("kind", ["recorded", "played", "continued"])
async def test_a_connection_can_be_cancelled_at_each_await_and_nothing_is_left(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "steps.mcp.jsonl"
    await record_one(path, n="recorded")
    before = path.read_bytes()
    mode: Any = {"recorded": "rewrite", "played": "none", "continued": "new_episodes"}[kind]
    was_cancelled: list[bool] = []

    for step in range(0, 120, 3):

        async def use() -> None:
            with use_cassette(path, mode=mode) as cassette:
                async with taped(cassette) as (session, server):
                    server.answers["tools/call"] = saying
                    await session.call_tool("tool", {"n": "new" if kind == "continued" else "recorded"})
                # What was recorded is thrown away, as the block does not end well.
                raise ZeroDivisionError

        try:
            was_cancelled.append(await cancelled_at(step, use))
        except BaseException as error:
            if not isinstance(leaf(error), ZeroDivisionError):
                raise
            was_cancelled.append(False)
        assert current_cassette() is None
        assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
    assert was_cancelled[0]
    assert not was_cancelled[-1]


# Values and errors of a cassette.


async def test_what_was_recorded_can_be_looked_at_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "after.mcp.jsonl"
    await record_one(path, n=1)
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette):
            pass
    assert [interaction.method for interaction in cassette.unused] == ["tools/call"]
    assert [interaction.n for interaction in cassette.interactions] == list(range(1, len(cassette) + 1))


async def test_a_damaged_file_says_what_to_do_and_doing_so_helps(tmp_path: Path) -> None:
    path = tmp_path / "cut.mcp.jsonl"
    await record_one(path, n=1)
    path.write_bytes(path.read_bytes()[:-15])
    with pytest.raises(CassetteFormatError) as failed, use_cassette(path, mode="none"):
        pass
    assert "restore the file, or delete it and record it again" in str(failed.value)
    path.unlink()
    await record_one(path, n=1)
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await said(call_plainly(session, "tool", {"n": 1}))


def test_a_cassette_is_used_while_it_is_open_only(tmp_path: Path) -> None:
    with use_cassette(tmp_path / "x.mcp.jsonl") as cassette:
        middleware = cassette.middleware()
    assert middleware is not None
    with pytest.raises(SessionStateError, match="not open"):
        cassette.middleware()


async def test_a_file_that_is_not_complete_warns_who_replays_it(tmp_path: Path) -> None:
    path = tmp_path / "lost.mcp.jsonl"
    await record_one(path, n=1)
    path.write_text(path.read_text().replace('"version":1}', '"version":1,"lost":3}', 1))
    with pytest.warns(CassetteWarning, match="3 messages"):
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                assert await said(session.call_tool("tool", {"n": 1})) == 'tool {"n": 1}'


if __name__ == "__main__":
    anyio.run(record_cassettes)
