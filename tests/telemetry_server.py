"""A real server for tests of telemetry, on either SDK line: it writes down what it receives, and asks the client back.

It knows nothing of OpenTelemetry. It writes down in LOG, and serves streamable HTTP or stdio:

python -m tests.telemetry_server http PORT LOG
python -m tests.telemetry_server stdio SOCKET LOG

Over stdio, each client has a process of its own: a fork, which `Elsewhere.stdio_command` gives its pipes to through the
socket. So it starts at once instead of in a second.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any, NamedTuple, Protocol

import anyio
import mcp.types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import ServerMessageMetadata

T: Any = mcp.types
LINE_1 = isinstance(mcp.types.ClientRequest, type)
Error: Any = getattr(mcp, "McpError" if LINE_1 else "MCPError")

TOOLS = ("echo", "enriched", "unsampled", "raises", "fail", "refuse", "hang", "ask", "ask_refused", "ask_broken")
"""The tools that are listed. Those without a meaning of their own say what they are told."""

UNLISTED = "made_up_by_a_model"

REFUSAL = (-32055, "not on a Sunday")
"""Code and message of the error that `refuse` is answered with."""

TRACE_OF_SERVER = "5e" * 16
"""The trace that the server says its questions belong to."""


def _question(number: int, method: str, **params: Any) -> tuple[str, dict[str, Any]]:
    return method, {**params, "_meta": {"traceparent": f"00-{TRACE_OF_SERVER}-{number:016x}-01"}}


def _elicitation(number: int, message: str) -> tuple[str, dict[str, Any]]:
    schema = {"type": "object", "properties": {}}
    return _question(number, "elicitation/create", mode="form", message=message, requestedSchema=schema)


_MESSAGE = {"role": "user", "content": {"type": "text", "text": "Hi"}}

QUESTIONS: Mapping[str, list[tuple[str, dict[str, Any]]]] = {
    "ask": [
        _question(1, "sampling/createMessage", messages=[_MESSAGE], maxTokens=1),
        _elicitation(2, "Who?"),
        _question(3, "roots/list"),
    ],
    "ask_refused": [_elicitation(4, "Refuse")],
    "ask_broken": [_elicitation(5, "Break")],
}
"""What a tool asks the client, method and params."""

_RESULTS = {
    "sampling/createMessage": T.CreateMessageResult,
    "elicitation/create": T.ElicitResult,
    "roots/list": T.ListRootsResult,
}


class Received(NamedTuple):
    """A JSON-RPC message that came to the server, or that it sent (the latter only in memory)."""

    sender: str
    frame: dict[str, Any]
    headers: dict[str, str]

    @property
    def method(self) -> str | None:
        return self.frame.get("method")

    @property
    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.frame.get("params") or {}
        return params

    @property
    def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = self.params.get("_meta") or {}
        return meta


Note = Callable[[Received], None]


class _Call(Protocol):
    """What the server needs of a call while it answers it."""

    is_modern: bool

    async def ask(self, method: str, params: dict[str, Any]) -> None: ...

    async def report(self) -> None: ...


async def _call_tool(call: _Call, params: dict[str, Any]) -> dict[str, Any]:
    name = params["name"]
    if name == "refuse":
        raise _error(*REFUSAL)
    if name == "hang":
        await call.report()
        await anyio.sleep_forever()
    if name not in TOOLS:
        raise _error(-32602, f"Unknown tool: {name}")
    questions = QUESTIONS.get(name, [])
    if questions and call.is_modern and "inputResponses" not in params:
        asked = {method: {"method": method, "params": said} for method, said in questions}
        return {"resultType": "input_required", "inputRequests": asked, "requestState": name}
    if not call.is_modern:
        with suppress(Error):  # whether it is answered is for the client's side to tell
            for method, said in questions:
                await call.ask(method, said)
    text = (params.get("arguments") or {}).get("text", name)
    return {"content": [{"type": "text", "text": text}], "isError": name == "fail"}


async def _answer(call: _Call, method: str, params: dict[str, Any]) -> dict[str, Any]:
    match method:
        case "tools/call":
            return await _call_tool(call, params)
        case "tools/list":
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
        case "prompts/list":
            return {"prompts": [{"name": "greet"}]}
        case "prompts/get":
            text = f"Hello {(params.get('arguments') or {}).get('name')}"
            return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
        case "resources/read":
            return {"contents": [{"uri": params["uri"], "text": "remember"}]}
        case _:
            return {}


def _error(code: int, message: str) -> Exception:
    data = T.ErrorData(code=code, message=message)
    error: Exception = Error(data) if LINE_1 else Error.from_error_data(data)
    return error


_MODELS = {
    "tools/call": (T.CallToolRequest, T.CallToolResult),
    "tools/list": (T.ListToolsRequest, T.ListToolsResult),
    "prompts/list": (T.ListPromptsRequest, T.ListPromptsResult),
    "prompts/get": (T.GetPromptRequest, T.GetPromptResult),
    "resources/read": (T.ReadResourceRequest, T.ReadResourceResult),
    "resources/subscribe": (T.SubscribeRequest, T.EmptyResult),
    "resources/unsubscribe": (T.UnsubscribeRequest, T.EmptyResult),
}


def _dumped(params: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = {}
    if params is not None:
        dumped = params.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped


class _Call1:
    is_modern = False

    def __init__(self, context: Any) -> None:
        self._context = context

    async def ask(self, method: str, params: dict[str, Any]) -> None:
        request = T.ServerRequest.model_validate({"method": method, "params": params})
        metadata = ServerMessageMetadata(related_request_id=self._context.request_id)
        await self._context.session.send_request(request, _RESULTS[method], metadata=metadata)

    async def report(self) -> None:
        token = getattr(self._context.meta, "progressToken", None)
        if token is None:
            return
        params = {"progressToken": token, "progress": 1}
        message = T.ServerNotification.model_validate({"method": "notifications/progress", "params": params})
        await self._context.session.send_notification(message, related_request_id=self._context.request_id)


class _Call2:
    def __init__(self, context: Any) -> None:
        self._context = context
        self.is_modern: bool = context.protocol_version >= "2026"

    async def ask(self, method: str, params: dict[str, Any]) -> None:
        model = {"sampling/createMessage": T.CreateMessageRequest, "roots/list": T.ListRootsRequest}
        request = model.get(method, T.ElicitRequest).model_validate({"method": method, "params": params})
        metadata = ServerMessageMetadata(related_request_id=self._context.request_id)
        await self._context.session.send_request(request, _RESULTS[method], metadata=metadata)

    async def report(self) -> None:
        await self._context.session.report_progress(1)


def make_server(*, is_traced: bool = True) -> Any:
    """A low-level server of the installed line.

    Args:
        is_traced: Whether it does with traces what servers of the SDK do by themselves, on line 2.
    """
    server = _make_server_1() if LINE_1 else _make_server_2()
    if not LINE_1 and not is_traced:
        server.middleware.clear()
    return server


def _make_server_1() -> Any:
    server: Any = Server("telemetry")

    def handler_of(result_type: Any) -> Any:
        async def handle(request: Any) -> Any:
            call = _Call1(server.request_context)
            result = await _answer(call, request.method, _dumped(request.params))
            return T.ServerResult(result_type.model_validate(result))

        return handle

    for request_type, result_type in _MODELS.values():
        server.request_handlers[request_type] = handler_of(result_type)
    return server


def _make_server_2() -> Any:
    server: Any = Server("telemetry")

    def handler_of(method: str, result_type: Any) -> Any:
        async def handle(context: Any, params: Any) -> Any:
            result = await _answer(_Call2(context), method, _dumped(params))
            is_question = result.get("resultType") == "input_required"
            return (T.InputRequiredResult if is_question else result_type).model_validate(result)

        return handle

    for method, (request_type, result_type) in _MODELS.items():
        params_type = request_type.model_fields["params"].annotation
        candidates = [params_type, *getattr(params_type, "__args__", ())]
        model = next(candidate for candidate in candidates if hasattr(candidate, "model_validate"))
        server.add_request_handler(method, model, handler_of(method, result_type))
    return server


# In this process


def noting(server: Any, note: Note) -> Any:
    """`server`, which notes what reaches it where there is no wire (line 2)."""

    async def middleware(context: Any, call_next: Any) -> Any:
        note(Received("client", {"method": context.method, "params": dict(context.params or {})}, {}))
        return await call_next(context)

    server.middleware.append(middleware)
    return server


class _Tee:
    """A stream that notes what passes."""

    def __init__(self, stream: Any, sender: str, note: Note) -> None:
        self._stream = stream
        self._sender = sender
        self._note = note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> _Tee:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._stream.__aexit__(*exception)

    def __aiter__(self) -> _Tee:
        return self

    async def __anext__(self) -> Any:
        return self._noted(await self._stream.__anext__())

    async def receive(self) -> Any:
        return self._noted(await self._stream.receive())

    async def send(self, message: Any) -> None:
        await self._stream.send(self._noted(message))

    def _noted(self, message: Any) -> Any:
        inner: Any = message.message
        self._note(Received(self._sender, _dumped(inner.root if LINE_1 else inner), {}))
        return message


@asynccontextmanager
async def memory_transport(note: Note) -> AsyncGenerator[tuple[Any, Any], None]:
    """A server of this process: a transport as the SDK's own."""
    async with create_client_server_memory_streams() as (client, (read, write)):
        server = make_server()
        options = server.create_initialization_options()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, _Tee(read, "client", note), _Tee(write, "server", note), options)
            yield client
            tasks.cancel_scope.cancel()


# In processes of their own


@dataclass
class Elsewhere:
    """A server in a process of its own, over HTTP and over stdio."""

    url: str
    _socket: Path
    _log: Path
    _read: int = field(default=0)

    @property
    def stdio_command(self) -> list[str]:
        """Starts a server that speaks stdio."""
        return [sys.executable, "-I", "-S", "-c", _HAND_OVER, str(self._socket)]

    def take_received(self) -> list[Received]:
        """What it has received since this was last asked; a server over stdio has read all when it has ended."""
        with self._log.open(encoding="utf-8") as log:
            log.seek(self._read)
            entries = [Received(*json.loads(line)) for line in log]
            self._read = log.tell()
        return entries


# Give this process's standard streams to a fork of the server, and wait until it has ended.
_HAND_OVER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    socket.send_fds(server, [b"."], [0, 1])
    server.recv(1)
"""


@contextmanager
def elsewhere() -> Generator[Elsewhere, None, None]:
    """Run the server in processes of its own."""
    with TemporaryDirectory() as directory, ExitStack() as stack:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path, log = Path(directory, "socket"), Path(directory, "log")
        log.touch()
        http = stack.enter_context(_process("http", str(port), str(log)))
        stdio = stack.enter_context(_process("stdio", str(path), str(log)))
        _wait_until_it_listens(http, socket.AF_INET, ("127.0.0.1", port))
        _wait_until_it_listens(stdio, socket.AF_UNIX, str(path))
        yield Elsewhere(f"http://127.0.0.1:{port}/mcp", path, log)


@contextmanager
def _process(*arguments: str) -> Generator[subprocess.Popen[bytes], None, None]:
    command = [sys.executable, "-m", "tests.telemetry_server", *arguments]
    root = Path(__file__).parent.parent
    # Line 1's server reports on stderr that a client has left.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root) as process:
        try:
            yield process
        finally:
            process.terminate()


def _wait_until_it_listens(process: subprocess.Popen[bytes], family: int, address: Any) -> None:
    deadline = monotonic() + 30
    while True:
        with suppress(OSError), socket.socket(family) as client:
            client.connect(address)
            return
        assert process.poll() is None, "the server ended"
        assert monotonic() < deadline, "the server does not listen"
        sleep(0.02)


def _logging_to(path: str) -> Note:
    def note(received: Received) -> None:
        with open(path, "a", encoding="utf-8") as log:
            log.write(json.dumps(received) + "\n")

    return note


async def _serve_http(port: int, note: Note) -> None:
    import uvicorn
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    manager = StreamableHTTPSessionManager(make_server(is_traced=False))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if body:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            note(Received("client", json.loads(body), headers))
        unread = [{"type": "http.request", "body": body}] if body else []

        async def receive_again() -> Any:
            return unread.pop() if unread else await receive()

        await manager.handle_request(scope, receive_again, send)

    async with manager.run():
        config = uvicorn.Config(app, port=port, log_level="error", lifespan="off")
        await uvicorn.Server(config).serve()


class _Lines:
    """The standard input, of which each line is noted."""

    def __init__(self, lines: Any, note: Note) -> None:
        self._lines = lines
        self._note = note

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        async for line in self._lines:
            self._note(Received("client", json.loads(line), {}))
            yield line


async def _serve_stdio(stdin: int, stdout: int, note: Note) -> None:
    lines: Any = _Lines(anyio.wrap_file(os.fdopen(stdin, encoding="utf-8")), note)
    server = make_server(is_traced=False)
    async with stdio_server(lines, anyio.wrap_file(os.fdopen(stdout, "w", encoding="utf-8"))) as streams:
        await server.run(*streams, server.create_initialization_options())


def _fork_for_each_client(path: str, note: Note) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            client, _ = listener.accept()
            descriptors = socket.recv_fds(client, 1, 2)[1]
            if descriptors and os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    anyio.run(_serve_stdio, descriptors[0], descriptors[1], note)
                finally:
                    os._exit(0)
            for descriptor in descriptors:
                os.close(descriptor)
            client.close()


def main() -> None:
    how, where, log = sys.argv[1:]
    if how == "http":
        anyio.run(_serve_http, int(where), _logging_to(log))
    else:
        _fork_for_each_client(where, _logging_to(log))


if __name__ == "__main__":
    main()
