"""`connect()`: every way to name a server, over every transport, and what it says when that cannot work."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import mcp.types as types
import pytest
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from mcp_intercept import CallbackClientSession, CallOptions, MiddlewareContext, MiddlewareManager, connect
from mcp_intercept.errors import InterceptError, MiddlewareError, UnsupportedTargetError
from tests.ears import Error
from tests.server import STDIO, http_server, make_server
from tests.wire import LINE_1, wire

if TYPE_CHECKING or not LINE_1:
    import httpx2 as httpx
else:
    import httpx

pytestmark = pytest.mark.anyio


class Log:
    """A middleware that keeps every context."""

    def __init__(self) -> None:
        self.contexts: list[MiddlewareContext[Any]] = []

    async def __call__(self, context: MiddlewareContext[Any], call_next: Any) -> Any:
        self.contexts.append(context)
        return await call_next(context)

    @property
    def methods(self) -> list[str]:
        return [context.method for context in self.contexts]


@pytest.fixture(scope="module")
def url() -> Generator[str, None, None]:
    with http_server() as url:
        yield url


async def use(server: Any, **options: Any) -> Log:
    """Call a tool of `server`, as any user would."""
    log = Log()
    with anyio.fail_after(60):
        async with connect(server, log, **options) as session:
            result = await session.call_tool("echo", {"text": "hello"})
            assert result.content[0].text == "hello"  # type: ignore[union-attr]
    return log


HANDSHAKE = ["initialize", "notifications/initialized"]
# The SDK asks for the tools by itself, to learn the output schema of the one that was called.
CALLED = ["tools/call", "tools/list"]


async def test_a_list_of_arguments_starts_a_server_over_stdio() -> None:
    assert (await use(STDIO)).methods == HANDSHAKE + CALLED


async def test_stdio_server_parameters_start_a_server_over_stdio() -> None:
    assert (await use(StdioServerParameters(command=STDIO[0], args=STDIO[1:]))).methods == HANDSHAKE + CALLED


async def test_a_server_object_is_served_in_this_process() -> None:
    assert (await use(make_server())).methods == HANDSHAKE + CALLED


async def test_a_low_level_server_is_served_in_this_process() -> None:
    server = make_server()
    low_level = getattr(server, "_mcp_server", None) or server._lowlevel_server
    assert (await use(low_level)).methods == HANDSHAKE + CALLED


async def test_a_url_is_connected_to_over_streamable_http(url: str) -> None:
    log = await use(url)
    assert log.methods == HANDSHAKE + CALLED
    # The server gives the id with its answer to initialize.
    before, *after = [context.session_id for context in log.contexts]
    assert before is None
    assert len(set(after)) == 1
    assert isinstance(after[0], str)


async def test_a_url_is_connected_to_over_the_older_transport_on_request() -> None:
    with http_server("sse") as url:
        log = await use(url, transport="sse", headers={"x-key": "value"})
    assert log.methods == HANDSHAKE + CALLED
    assert log.contexts[-1].session_id is None


async def test_a_transport_of_the_sdk_is_entered(url: str) -> None:
    assert (await use(stdio_client(StdioServerParameters(command=STDIO[0], args=STDIO[1:])))).methods[0] == "initialize"
    assert (await use(streamable_http_client(url))).methods[0] == "initialize"


async def test_a_pair_of_streams_is_used_as_it_is() -> None:
    async with wire() as (streams, server):
        async with connect(streams) as session:
            await session.send_ping()
        assert server.methods == [*HANDSHAKE, "ping"]


async def test_the_session_is_a_client_session_with_a_name() -> None:
    async with wire() as (streams, _), connect(streams, connection_id="weather") as session:
        assert isinstance(session, CallbackClientSession)
        assert isinstance(session, ClientSession)
        assert session.connector_id == "weather"


async def test_a_name_is_made_up_where_none_is_given() -> None:
    async with wire() as (one, _), wire() as (two, _), connect(one) as first, connect(two) as second:
        assert first.connector_id != second.connector_id
        assert len(first.connector_id) < 20


async def test_a_manager_may_be_given_and_is_shared() -> None:
    manager = MiddlewareManager()
    async with wire() as (one, _), wire() as (two, _), connect(one, manager) as first, connect(two, manager) as second:
        assert manager.sessions == {first, second}
    assert manager.sessions == set()


async def test_a_manager_and_middlewares_together_are_refused() -> None:
    async with wire() as (streams, _):
        with pytest.raises(MiddlewareError, match="either one MiddlewareManager or middlewares"):
            async with connect(streams, MiddlewareManager(), Log()):
                pass  # pragma: no cover - never entered


@pytest.mark.skipif(LINE_1, reason="line 1 knows only the handshake")
async def test_auto_mode_discovers_a_server_that_knows_how(url: str) -> None:
    for server in (make_server(), STDIO, url):
        log = await use(server, mode="auto")
        assert log.methods == ["server/discover", *CALLED]
        assert log.contexts[-1].protocol_version == "2026-07-28"
        assert log.contexts[-1].session_id is None


async def test_auto_mode_falls_back_to_the_handshake() -> None:
    async with wire() as (streams, server):

        async def unknown(frame: Any) -> None:
            await server.refuse(frame["id"], -32601, "Method not found")

        server.answers["server/discover"] = unknown
        async with connect(streams, mode="auto"):
            pass
        assert server.methods == HANDSHAKE if LINE_1 else ["server/discover", *HANDSHAKE]


@pytest.mark.skipif(LINE_1, reason="line 1 knows only the handshake")
@pytest.mark.parametrize("supported", [["2026-07-28"], ["2025-11-25"], None])
async def test_auto_mode_gives_up_only_on_a_server_that_knows_no_handshake(supported: list[str] | None) -> None:
    async with wire() as (streams, server):

        async def refuse(frame: Any) -> None:
            data = {"supported": supported, "requested": "x"} if supported else None
            error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
            await server.send({"jsonrpc": "2.0", "id": frame["id"], "error": error})

        server.answers["server/discover"] = refuse
        if supported == ["2026-07-28"]:
            with pytest.raises(Exception, match="Unsupported protocol version"):
                async with connect(streams, mode="auto"):
                    pass  # pragma: no cover - never entered
        else:
            async with connect(streams, mode="auto"):
                pass
            assert server.methods[-2:] == HANDSHAKE


@pytest.mark.skipif(LINE_1, reason="line 1 knows only the handshake")
async def test_auto_mode_shakes_hands_with_a_server_that_discovers_nothing_newer() -> None:
    async with wire() as (streams, server):

        async def older(frame: Any) -> dict[str, Any]:
            return {"supportedVersions": ["2025-11-25"], "capabilities": {}, "resultType": "complete"}

        server.answers["server/discover"] = older
        async with connect(streams, mode="auto"):
            pass
        assert server.methods == ["server/discover", *HANDSHAKE]


async def test_the_timeout_is_that_of_every_request() -> None:
    async with wire() as (streams, server), connect(streams, timeout=0.5) as session:

        async def never(frame: Any) -> None:
            return None

        server.answers["ping"] = never
        with session.middleware_manager.capture() as exchanges:
            with pytest.raises(Exception, match="(?i)timed out"):
                await session.send_ping()
        assert [exchange.response.outcome for exchange in exchanges] == ["timeout"]


async def test_callbacks_and_client_info_reach_the_session() -> None:
    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[])

    info = types.Implementation(name="me", version="1")
    async with wire() as (streams, server):
        async with connect(streams, list_roots_callback=roots, client_info=info):
            pass
        params = server.sent("initialize")[0]["params"]
        assert params["clientInfo"] == {"name": "me", "version": "1"}
        assert "roots" in params["capabilities"]


async def test_headers_reach_every_request(url: str) -> None:
    seen: list[str | None] = []

    async def note(request: Any) -> None:
        seen.append(request.headers.get("x-key"))

    async with connect(url, headers={"x-key": "of connect"}) as session:
        assert await session.send_ping()
    async with httpx.AsyncClient(headers={"x-key": "of my client"}, event_hooks={"request": [note]}) as client:
        async with connect(url, http_client=client) as session:
            await session.send_ping()
        # The client is the user's own: it is left as it was, and open.
        assert client.event_hooks["request"] == [note]
        assert not client.is_closed
    assert set(seen) == {"of my client"}


async def test_headers_of_a_call_reach_just_the_http_request_of_that_call(url: str, anyio_backend: str) -> None:
    seen: list[tuple[str, str | None, str | None]] = []

    async def note(request: Any) -> None:
        if b"tools/call" in request.content:
            text = request.content.decode()
            seen.append((text, request.headers.get("x-call"), request.headers.get("accept")))

    async def label(context: MiddlewareContext[Any], call_next: Any) -> Any:
        if context.method == "tools/call":
            context.options.headers["x-call"] = context.params.arguments["text"]
            context.options.headers["accept"] = "nothing"
            await anyio.lowlevel.checkpoint()
        return await call_next(context)

    async with httpx.AsyncClient() as client:
        async with connect(url, label, http_client=client) as session:
            # After the link's own listener, so that it sees what is sent.
            client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], note]}
            await session.list_tools()
            # On trio the bare line 1 hangs when a few calls are in flight over HTTP.
            limit = anyio.CapacityLimiter(1 if LINE_1 and anyio_backend == "trio" else 20)

            async def call(text: str) -> None:
                async with limit:
                    await session.call_tool("echo", {"text": text})

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(call, f"<{number}>")
    assert len(seen) == 20
    for text, header, accept in seen:
        assert header is not None
        assert header in text
        assert accept != "nothing"  # what the protocol stamps stays


async def test_headers_of_a_call_do_not_reach_the_answer_to_a_question_of_the_server(url: str) -> None:
    seen: dict[str, str | None] = {}

    async def note(request: Any) -> None:
        if request.method == "POST":
            frame = json.loads(request.content)
            seen[frame.get("method", "answer")] = request.headers.get("x-call")

    async def label(context: MiddlewareContext[Any], call_next: Any) -> Any:
        if context.method == "tools/call":
            context.options.headers["x-call"] = "call"
        return await call_next(context)

    async def decline(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async with httpx.AsyncClient() as client:
        async with connect(url, label, http_client=client, elicitation_callback=decline) as session:
            client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], note]}
            with anyio.fail_after(30):
                result: Any = await session.call_tool("ask")
    assert result.content[0].text == "decline"
    assert seen["tools/call"] == "call"
    assert seen["answer"] is None


async def test_headers_of_a_call_pass_a_wrapper_around_the_session(url: str) -> None:
    seen: list[str | None] = []

    async def note(request: Any) -> None:
        seen.append(request.headers.get("x-call"))

    async def label(context: MiddlewareContext[Any], call_next: Any) -> Any:
        context.options.headers["x-call"] = "outer"
        return await call_next(context)

    async with httpx.AsyncClient() as client, connect(url, http_client=client) as session:
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], note]}
        outer = CallbackClientSession(session, "outer", MiddlewareManager([label]))
        await outer.send_ping()
        await session.send_ping()
        session.middleware_manager.add_middleware(Log())
        await outer.send_ping()
    assert [header for header in seen if header] == ["outer", "outer"]


async def test_headers_of_a_call_are_left_out_where_there_is_no_http(caplog: pytest.LogCaptureFixture) -> None:
    async def label(context: MiddlewareContext[Any], call_next: Any) -> Any:
        context.options.headers["authorization"] = "planted-secret"
        return await call_next(context)

    caplog.set_level("DEBUG", "mcp_intercept")
    async with wire() as (streams, _), connect(streams, label) as session:
        await session.send_ping()
    assert "headers of a call are" in caplog.text
    assert "planted-secret" not in caplog.text


@pytest.mark.parametrize("server", ["python server.py", 5, None, [], [1], {}, object()])
async def test_what_is_no_server_is_refused_with_the_way_out(server: Any) -> None:
    with pytest.raises(UnsupportedTargetError, match=r"give a list of arguments .* a URL .* a server object") as caught:
        async with connect(server):
            pass  # pragma: no cover - never entered
    assert caught.value.target is server
    assert isinstance(caught.value, TypeError)
    assert "server.py" not in str(caught.value)
    assert ("an empty list" in str(caught.value)) == (server == [])


async def test_a_session_is_not_connected_to() -> None:
    async with wire() as (streams, _):
        with pytest.raises(UnsupportedTargetError):
            async with connect(ClientSession(*streams)):
                pass  # pragma: no cover - never entered


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": "newest"}, "mode must be 'legacy' or 'auto', not 'newest'"),
        ({"transport": "smoke signals"}, "transport must be 'streamable-http' or 'sse'"),
        ({"timeout": "5"}, "timeout must be seconds, or None for no limit, not an object of type str"),
        ({"headers": {"a": "b"}}, "only for a server that is given as a URL"),
        ({"transport": "sse"}, "only for a server that is given as a URL"),
    ],
)
async def test_options_that_do_not_fit_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InterceptError, match=complaint):
        async with connect(STDIO, **options):
            pass  # pragma: no cover - never entered


async def test_a_client_of_ones_own_and_headers_are_refused() -> None:
    async with httpx.AsyncClient() as client:
        with pytest.raises(InterceptError, match="either http_client"):
            async with connect("http://127.0.0.1:1/mcp", http_client=client, headers={"a": "b"}):
                pass  # pragma: no cover - never entered


async def test_a_command_that_does_not_exist_is_the_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        async with connect(["/nowhere/server"]):
            pass  # pragma: no cover - never entered


async def test_a_server_that_dies_at_once_is_the_error_of_the_sdk() -> None:
    with anyio.fail_after(60), pytest.raises(Exception) as raised:  # noqa: PT011 - line 1 has two
        async with connect([sys.executable, "-c", "pass"]):
            pass  # pragma: no cover - never entered
    # It may be gone before the first message is written.
    is_gone = isinstance(raised.value, (anyio.ClosedResourceError, anyio.BrokenResourceError))
    assert is_gone or str(raised.value) == "Connection closed"


async def test_an_exception_of_the_body_comes_out_as_it_is(url: str) -> None:
    for server in (STDIO, url, make_server()):
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught:
            async with connect(server):
                raise error
        assert caught.value is error
        assert error.__context__ is None


async def test_an_exception_group_of_the_body_comes_out_as_it_is() -> None:
    async with wire() as (streams, _):
        caught: BaseException | None = None
        try:
            async with connect(streams), anyio.create_task_group() as tasks:
                tasks.start_soon(_fail)
        except BaseException as error:
            caught = error
        assert [type(inside) for inside in getattr(caught, "exceptions", ())] == [ValueError]


async def _fail() -> None:
    raise ValueError("in a task")


async def test_cancelling_the_body_ends_server_and_session() -> None:
    manager = MiddlewareManager()
    with anyio.fail_after(60):
        with anyio.CancelScope() as scope:
            async with connect(STDIO, manager):
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert manager.sessions == set()


HANDSHAKES = {"legacy": "initialize", **({} if LINE_1 else {"auto": "server/discover"})}


@pytest.mark.parametrize("mode", HANDSHAKES)
@pytest.mark.parametrize("where", ["stdio", "http", "in process"])
async def test_a_server_that_is_refused_leaves_nothing_behind(where: str, mode: Any, url: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = f"import os; open({str(note)!r}, 'w').write(str(os.getpid())); " + (
        f"import runpy; runpy.run_path({STDIO[1]!r}, run_name='__main__')"
    )
    server = {"stdio": [sys.executable, "-c", program], "http": url, "in process": make_server()}[where]
    refusal = PermissionError("not on the list")
    sessions: list[Any] = []

    async def refuse(context: MiddlewareContext[Any], call_next: Any) -> Any:
        assert context.method == HANDSHAKES[mode]
        sessions.append(context.session)
        result = await call_next(context)
        assert result.capabilities is not None
        raise refusal

    with anyio.fail_after(60):
        with pytest.raises(PermissionError) as raised:
            async with connect(server, refuse, mode=mode):
                raise AssertionError("it was refused")
        assert raised.value is refusal
        [session] = sessions
        with pytest.raises((anyio.ClosedResourceError, Error)):
            await session.client_session.list_tools()
    if where == "stdio":
        with pytest.raises(ProcessLookupError):
            os.kill(int(note.read_text()), 0)


async def test_a_server_can_be_refused_before_it_is_asked() -> None:
    async def refuse(context: MiddlewareContext[Any], call_next: Any) -> Any:
        raise PermissionError(context.method)

    async with wire() as (streams, server):
        with pytest.raises(PermissionError, match="initialize"):
            async with connect(streams, refuse):
                raise AssertionError("it was refused")
        assert server.frames == []


def listen(direction: str) -> None:
    raise NotImplementedError


async def listen_async(direction: str, message: Any) -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"timeout": -1}, "timeout must be seconds, or None for no limit, not -1"),
        ({"timeout": float("nan")}, "timeout must be seconds, or None for no limit, not nan"),
        ({"timeout": True}, "not an object of type bool"),
        ({"headers": "x-a: 1"}, "headers must be a mapping"),
        ({"on_frame": 5}, "on_frame must be a plain function"),
        ({"on_frame": listen}, "on_frame must be a plain function"),
        ({"on_frame": listen_async}, "never awaited"),
    ],
)
async def test_options_of_the_wrong_kind_are_refused_before_anything_is_started(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InterceptError, match=complaint):
        async with connect(["/nowhere"], **options):
            raise AssertionError("it was refused")


async def test_a_class_for_a_middleware_is_refused_before_anything_is_started() -> None:
    with pytest.raises(MiddlewareError, match="is a class; give an instance"):
        async with connect(["/nowhere"], Log):  # type: ignore[arg-type]
            raise AssertionError("it was refused")


@pytest.mark.parametrize("headers", [{"x": 1}, {1: "x"}, [("x", "1")], "x: 1"], ids=str)
async def test_headers_of_a_call_that_are_none_are_refused(headers: Any) -> None:
    async def label(context: MiddlewareContext[Any], call_next: Any) -> Any:
        if context.method == "ping":
            context.options.headers = headers
        return await call_next(context)

    async with wire() as (streams, server), connect(streams, label) as session:
        with pytest.raises(MiddlewareError, match=r"context.options.headers of ping .* dict of str to str"):
            await session.send_ping()
        assert server.sent("ping") == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"timeout": 5}, "to an object of type dict; set its"), (CallOptions(progress_callback=5), "progress_callback")],  # type: ignore[arg-type]
    ids=["a dict", "a number for a callback"],
)
async def test_options_of_a_call_that_are_none_are_refused(options: Any, complaint: str) -> None:
    async def set_options(context: MiddlewareContext[Any], call_next: Any) -> Any:
        if context.method == "ping":
            context.options = options
        return await call_next(context)

    async with wire() as (streams, server), connect(streams, set_options) as session:
        with pytest.raises(MiddlewareError, match=complaint):
            await session.send_ping()
        assert server.sent("ping") == []


async def test_a_path_may_be_part_of_a_command() -> None:
    log = await use([Path(sys.executable), Path(STDIO[1])])
    assert log.methods[0] == "initialize"


class MyOptions(CallOptions):
    """Options of a user's own class."""


async def test_options_of_a_call_may_be_of_a_class_of_ones_own() -> None:
    async def set_options(context: MiddlewareContext[Any], call_next: Any) -> Any:
        context.options = MyOptions(timeout=5)
        return await call_next(context)

    async with wire() as (streams, server), connect(streams, set_options) as session:
        await session.send_ping()
        assert len(server.sent("ping")) == 1


LATE = """
import json, sys

for text in sys.stdin:
    frame = json.loads(text)
    if frame["method"] == "initialize" and sys.argv[1] == "answers":
        about = {"capabilities": {}, "serverInfo": {"name": "late", "version": "1"}}
        result = {**about, "protocolVersion": frame["params"]["protocolVersion"]}
        print(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}), flush=True)
    elif frame["method"] == "initialize":
        sys.stdin.read()
said = {"level": "info", "data": "I have been left"}
print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": said}), flush=True)
"""


@pytest.mark.parametrize(
    ("handshake", "ends"), [("answers", "well"), ("answers", "with an error"), ("waits", "before it began")]
)
async def test_what_a_server_says_as_it_is_left_changes_nothing(handshake: str, ends: str) -> None:
    server = [sys.executable, "-c", LATE, handshake]
    ended: BaseException | None = None
    with anyio.fail_after(60):
        try:
            async with connect(server, timeout=0.2 if handshake == "waits" else None, mode="legacy"):
                if ends == "with an error":
                    raise KeyError("mine")
        except Exception as error:
            ended = error
    assert type(ended) is {"well": type(None), "with an error": KeyError, "before it began": Error}[ends]
