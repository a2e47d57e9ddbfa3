"""`ScriptedServer`: a server without a process and without a server SDK, that says what a test has scripted."""

# The class and its connections are two halves of one thing.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import isawaitable
from itertools import count
from math import inf
from typing import Any, NoReturn, TypeAlias, cast

import anyio
from anyio.abc import TaskGroup
from pydantic import BaseModel

from mcp_intercept._context import Kind, printable
from mcp_intercept._sdk import line
from mcp_intercept.errors import InterceptError
from mcp_intercept.recording.interactions import name_in
from mcp_intercept.testing._line import Frame, closed_error, make_error
from mcp_intercept.testing._peer import Peer

Answer: TypeAlias = Any
"""What a request is answered with: what the method's `on_...` says, an exception, or a function that makes one."""

_MODERN = "2026-07-28"
_HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
_VERSIONS = (*_HANDSHAKE_VERSIONS, _MODERN)
# What each request of 2026-07-28 says in its `_meta`.
_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
_CACHED = frozenset(
    {
        "server/discover",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
    }
)

_METHOD_NOT_FOUND, _INVALID_PARAMS, _INTERNAL_ERROR, _UNSUPPORTED_VERSION = -32601, -32602, -32603, -32022

# The methods that are scripted by what they ask for.
_NAMED = {"tools/call": "tool", "resources/read": "resource", "prompts/get": "prompt"}

_TOOL_KEYS = frozenset({"content", "structuredContent", "isError", "resultType", "_meta"})


@dataclass(frozen=True, slots=True, repr=False)
class Received:
    """A request or notification of a client's, as it arrived.

    Example::

        server = ScriptedServer()
        async with connect(server.transport()):
            [handshake] = server.requests
        assert handshake.method == "initialize"
        assert handshake.params["clientInfo"]["name"] == "mcp"
    """

    frame: Frame
    """The JSON-RPC message."""

    metadata: Any = None
    """What the client told its transport with it (`SessionMessage.metadata`), e.g. HTTP headers."""

    @property
    def method(self) -> str:
        """The wire name."""
        method: str = self.frame["method"]
        return method

    @property
    def params(self) -> dict[str, Any]:
        """The params, with `_meta`; `{}` where there are none."""
        return self.frame.get("params") or {}

    @property
    def kind(self) -> Kind:
        """Whether an answer is due."""
        return "request" if "id" in self.frame else "notification"

    @property
    def name(self) -> str | None:
        """The name of the tool or prompt, or the URI of the resource; `None` where there is no such thing."""
        return name_in(self.method, self.params)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the tool or prompt; `{}` where there are none."""
        return self.params.get("arguments") or {}

    def __repr__(self) -> str:
        return f"<Received {self.kind} {printable(self.method)}>"


class Script:
    """What a `ScriptedServer` answers to one kind of request, and what it was asked.

    Example::

        server = ScriptedServer()
        forecast = server.on_tool("forecast", "sunny", "rain")
        async with connect(server.transport()) as session:
            await session.call_tool("forecast", {"city": "Oslo"})
        assert forecast.called
        assert forecast.calls == [{"city": "Oslo"}]
    """

    def __init__(self, title: str, answers: tuple[Answer, ...], to_result: Callable[[Any], Frame]) -> None:
        self.calls: list[Any] = []
        """What each request asked with: the arguments of a tool or prompt, the URI of a resource, else the params."""
        self._title = title
        self._answers = answers
        self._to_result = to_result
        for answer in answers:
            if isinstance(answer, type):
                raise InterceptError(f"{title}: {answer.__name__} is a class; give an instance, or a function")
            if not callable(answer) and not isinstance(answer, Exception):
                to_result(answer)

    @property
    def called(self) -> bool:
        """Whether it was asked for at all."""
        return bool(self.calls)

    def _answer(self, asked: Any) -> Any:
        """What to answer next, or an awaitable of it."""
        self.calls.append(asked)
        answer = self._answers[min(len(self.calls), len(self._answers)) - 1]
        return answer(asked) if callable(answer) else answer

    def _result_of(self, answer: Any) -> Frame:
        """The result that an answer stands for; an exception is raised."""
        if isinstance(answer, Exception):
            raise answer
        return self._to_result(answer)

    def __repr__(self) -> str:
        return f"<Script {self._title}: called {len(self.calls)} times>"


class ScriptedServer:
    """A server for tests that says what you script, as far down as JSON-RPC: no process, no sockets, no server SDK.

    Its `transport()` goes wherever one of the SDK's does: `connect()`, `ClientSession(*streams)`, `Client` of SDK 2.x,
    agent frameworks. It speaks every version of the protocol, answers the handshake, pings, and lists of what is
    scripted. A request that the client gives up is given up here, too.

    Answers are given in order, and the last again and again. Each is a value, an exception (a JSON-RPC error: that of
    an `McpError` or `MCPError`, see `error()`, else -32603 with its text), or a function that returns or raises one,
    which may be async. For an answer that never comes: `lambda asked: anyio.sleep_forever()`.

    What has no script is refused with a JSON-RPC error, and if it is `strict`, leaving the transport fails, even where
    the agent swallowed the error. So do assertions that fail in a function of the script.

    Example::

        server = ScriptedServer("weather")
        server.on_tool("forecast", lambda arguments: f"sunny in {arguments['city']}")
        server.on_resource("memo://1", "remember")
        async with connect(server.transport()) as session:
            result = await session.call_tool("forecast", {"city": "Oslo"})
            await session.read_resource("memo://1")
        assert result.content[0].text == "sunny in Oslo"
        assert [request.method for request in server.requests][-1] == "resources/read"

    Args:
        name: What the server calls itself.
        version: Its version.
        instructions: Its instructions for the client.
        capabilities: Its capabilities; by default those of what is scripted.
        protocol_version: The only version of the protocol that it speaks; by default all.
        strict: Whether leaving the transport fails if something was asked that has no script.

    Raises:
        InterceptError: There is no such version of the protocol.
    """

    def __init__(
        self,
        name: str = "scripted",
        *,
        version: str = "1",
        instructions: str | None = None,
        capabilities: Mapping[str, Any] | None = None,
        protocol_version: str | None = None,
        strict: bool = True,
    ) -> None:
        if protocol_version is not None and protocol_version not in _VERSIONS:
            raise InterceptError(f"protocol_version must be one of {', '.join(_VERSIONS)}, not {protocol_version!r}")
        self.name: str = name
        """What the server calls itself."""
        self.received: list[Received] = []
        """Every request and notification that arrived, in order."""
        self._about: Frame = {"serverInfo": {"name": name, "version": version}}
        if instructions is not None:
            self._about["instructions"] = instructions
        self._capabilities = capabilities
        self._protocol_version = protocol_version
        self._strict = strict
        self._scripts: dict[tuple[str, str | None], Script] = {}
        self._listed: dict[str, dict[str, Frame]] = {method: {} for method in _NAMED}
        self._built_in: dict[str, Callable[[Received], Frame]] = {
            "initialize": self._initialize,
            "server/discover": self._discover,
            "ping": lambda _: {},
            "tools/list": lambda _: {"tools": [*self._listed["tools/call"].values()]},
            "resources/list": lambda _: {"resources": [*self._listed["resources/read"].values()]},
            "resources/templates/list": lambda _: {"resourceTemplates": []},
            "prompts/list": lambda _: {"prompts": [*self._listed["prompts/get"].values()]},
        }
        self._connections: list[_Connection] = []
        self._arrivals: set[anyio.Event] = set()
        self._unscripted: list[str] = []
        self._failures: list[Exception] = []

    # What it says.

    def on_tool(
        self,
        name: str,
        *answers: Answer,
        description: str | None = None,
        input_schema: Mapping[str, Any] | None = None,
        output_schema: Mapping[str, Any] | None = None,
    ) -> Script:
        """Script a tool, which `tools/list` then shows.

        Example::

            server = ScriptedServer()
            server.on_tool("add", lambda arguments: {"structuredContent": {"sum": arguments["a"] + arguments["b"]}})
            server.on_tool("flaky", ValueError("not yet"), server.error(-32000, "nor yet"), "at last")
            async with connect(server.transport()) as session:
                await session.call_tool("add", {"a": 1, "b": 2})

        Args:
            name: Its name.
            answers: A str, which becomes text content; a list of content blocks; a dict or model, which is the result
                of `tools/call`; an exception; or a function of the arguments. None at all is a result without content.
            description: Its description.
            input_schema: The JSON Schema of its arguments; by default any object.
            output_schema: The JSON Schema of its structured content.

        Raises:
            InterceptError: An answer is none of these.
        """
        tool: Frame = {"name": name, "inputSchema": {"type": "object", **(input_schema or {})}}
        if description is not None:
            tool["description"] = description
        if output_schema is not None:
            tool["outputSchema"] = dict(output_schema)
        return self._script("tools/call", name, answers, _tool_result, tool)

    def on_resource(self, uri: str, *answers: Answer, name: str | None = None, mime_type: str | None = None) -> Script:
        """Script a resource, which `resources/list` then shows.

        Example::

            server = ScriptedServer()
            server.on_resource("memo://1", "remember", mime_type="text/plain")
            async with connect(server.transport()) as session:
                [contents] = (await session.read_resource("memo://1")).contents
            assert contents.text == "remember"

        Args:
            uri: Its URI.
            answers: A str or bytes, which become its contents; a dict or model, which is the result of
                `resources/read`; an exception; or a function of the URI.
            name: Its name; by default the URI.
            mime_type: The MIME type of its contents.

        Raises:
            InterceptError: An answer is none of these.
        """
        resource = {"uri": uri, "name": name or uri}
        kind = {} if mime_type is None else {"mimeType": mime_type}

        def to_result(answer: Any) -> Frame:
            if isinstance(answer, str):
                return {"contents": [{"uri": uri, **kind, "text": answer}]}
            if isinstance(answer, bytes):
                return {"contents": [{"uri": uri, **kind, "blob": b64encode(answer).decode()}]}
            if answer is None:
                return {"contents": []}
            return _raw_result(answer, "a str, bytes, a dict, a model, None or an exception")

        return self._script("resources/read", uri, answers, to_result, {**resource, **kind})

    def on_prompt(
        self, name: str, *answers: Answer, description: str | None = None, arguments: Iterable[str] = ()
    ) -> Script:
        """Script a prompt, which `prompts/list` then shows.

        Example::

            server = ScriptedServer()
            server.on_prompt("greet", lambda arguments: f"Greet {arguments['who']}.", arguments=["who"])
            async with connect(server.transport()) as session:
                [message] = (await session.get_prompt("greet", {"who": "Ada"})).messages
            assert message.content.text == "Greet Ada."

        Args:
            name: Its name.
            answers: A str, which becomes a message of the user's; a dict or model, which is the result of
                `prompts/get`; an exception; or a function of the arguments.
            description: Its description.
            arguments: The names of its arguments.

        Raises:
            InterceptError: An answer is none of these.
        """
        prompt: Frame = {"name": name, "arguments": [{"name": argument} for argument in arguments]}
        if description is not None:
            prompt["description"] = description
        return self._script("prompts/get", name, answers, _prompt_result, prompt)

    def on(self, method: str, *answers: Answer) -> Script:
        """Script any method, those that are answered without a script among them.

        Example::

            server = ScriptedServer()
            server.on("completion/complete", {"completion": {"values": ["Oslo"]}})
            server.on("tools/list", lambda params: server.error(-32000, "not today"))

        Args:
            method: The wire name, of a request or a notification. The latter is not answered, but a function called.
            answers: A dict or model, which is the result; an exception; or a function of the params. `None`, which a
                function returns that returns nothing, is an empty result.

        Raises:
            InterceptError: An answer is none of these.
        """
        return self._script(method, None, answers, _any_result, None)

    def _script(
        self,
        method: str,
        name: str | None,
        answers: tuple[Answer, ...],
        to_result: Callable[[Any], Frame],
        listed: Frame | None,
    ) -> Script:
        script = Script(_title(method, name), answers or (None,), to_result)
        self._scripts[method, name] = script
        if name is not None and listed is not None:
            self._listed[method][name] = listed
        return script

    @staticmethod
    def error(code: int, message: str, data: Any = None) -> Exception:
        """A JSON-RPC error to answer with: the `McpError` of SDK 1.x, the `MCPError` of 2.x.

        Example::

            server = ScriptedServer()
            server.on_tool("forecast", server.error(-32000, "no luck", {"try": "later"}))

        Args:
            code: Its code.
            message: Its message.
            data: What else there is to say.
        """
        return make_error(code, message, data)

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification to every connected client.

        Example::

            server = ScriptedServer()
            async with connect(server.transport()):
                server.notify("notifications/tools/list_changed")

        Args:
            method: The wire name.
            params: The params, as on the wire.

        Raises:
            InterceptError: No client is connected.
        """
        self._connected()
        for connection in self._connections:
            connection.tell(_with_params({"jsonrpc": "2.0", "method": method}, params))

    def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """In a function of the script: report the progress of what is being answered, if the client wants to know.

        Example::

            def climb(arguments):
                server.progress(1, total=2)
                return "there"

            server = ScriptedServer()
            server.on_tool("climb", climb)

        Args:
            progress: How far it is.
            total: How far there is to go.
            message: What is going on.

        Raises:
            InterceptError: Nothing is being answered here.
        """
        answering = _answering.get(None)
        if answering is None:
            raise InterceptError("progress() is for the functions of a script; elsewhere use notify()")
        connection, received = answering
        token = received.params.get("_meta", {}).get("progressToken")
        if token is not None:
            said = {"progressToken": token, "progress": progress, "total": total, "message": message}
            params = {key: value for key, value in said.items() if value is not None}
            connection.tell({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Frame:
        """Ask the client, and return the result it answers with.

        In a function of the script that is the client which is being answered, else the one that connected last. If
        the question is given up, the client is told.

        Example::

            async def book(arguments):
                answer = await server.ask(
                    "elicitation/create", {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}
                )
                return answer["action"]

            server = ScriptedServer()
            server.on_tool("book", book)

        Args:
            method: The wire name: `"elicitation/create"`, `"sampling/createMessage"`, `"roots/list"`, `"ping"`.
            params: The params, as on the wire.

        Raises:
            McpError: (of SDK 2.x `MCPError`) The client refused, or the connection ended.
            InterceptError: No client is connected.
        """
        answering = _answering.get(None)
        connection = self._connected() if answering is None else answering[0]
        return await connection.ask(method, params)

    def disconnect(self) -> None:
        """Hang up on every client, as a server does that dies: nothing is answered any more.

        Another `transport()` connects anew.

        Example::

            server = ScriptedServer()
            server.on_tool("crash", lambda arguments: server.disconnect())

        Raises:
            InterceptError: No client is connected.
        """
        self._connected()
        for connection in [*self._connections]:
            connection.end()

    def _connected(self) -> _Connection:
        if not self._connections:
            raise InterceptError(f"no client is connected to {self!r}; use it inside `async with` of its transport()")
        return self._connections[-1]

    # What it hears.

    @property
    def requests(self) -> list[Received]:
        """The requests that arrived, in order."""
        return [received for received in self.received if received.kind == "request"]

    @property
    def notifications(self) -> list[Received]:
        """The notifications that arrived, in order."""
        return [received for received in self.received if received.kind == "notification"]

    @property
    def unused(self) -> list[Script]:
        """The scripts that nothing was asked of, for tests that want them all used."""
        return [script for script in self._scripts.values() if not script.called]

    async def wait_for(self, method: str, count: int = 1, *, timeout: float = 5.0) -> Received:  # noqa: ASYNC109
        """Wait until the `count`-th message of `method` has arrived, and return it.

        Example::

            server = ScriptedServer()
            async with connect(server.transport()):
                await server.wait_for("notifications/initialized")

        Args:
            method: The wire name, of a request or a notification.
            count: How many of them.
            timeout: How many seconds to wait at most.

        Raises:
            TimeoutError: It did not arrive in time; it says what did.
        """
        with anyio.move_on_after(timeout):
            while True:
                found = [received for received in self.received if received.method == method]
                if len(found) >= count:
                    return found[count - 1]
                event = anyio.Event()
                self._arrivals.add(event)
                try:
                    await event.wait()
                finally:
                    self._arrivals.discard(event)
        arrived = ", ".join(printable(received.method) for received in self.received) or "nothing"
        number = "no" if count == 1 else f"no {count}."
        raise TimeoutError(f"{number} {method} arrived within {timeout} seconds; what arrived: {arrived}")

    # How it is connected.

    def transport(self) -> AbstractAsyncContextManager[tuple[Any, Any]]:
        """A connection to it: a transport as the SDK has them, whose value is a pair of streams. Each is used once.

        Example::

            server = ScriptedServer()
            async with server.transport() as streams, ClientSession(*streams) as session:
                await session.initialize()

        Raises:
            AssertionError: On leaving, unless something else was raised: what was asked has no script (see `strict`).
                What a function of the script asserted in vain, is raised as it is.
        """
        return self._transport()

    @asynccontextmanager
    async def _transport(self) -> AsyncGenerator[tuple[Any, Any], None]:
        body_error: Exception | None = None
        # The client reads when it likes. What it writes, is read at once.
        write, client_read = anyio.create_memory_object_stream[Any](inf)
        client_write, read = anyio.create_memory_object_stream[Any](0)
        connection = _Connection(self, read, write)
        self._connections.append(connection)
        try:
            async with write, client_read, client_write, read, anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                try:
                    yield client_read, client_write
                except Exception as error:
                    body_error = error
                    raise
                finally:
                    connection.end()
                    tasks.cancel_scope.cancel()
        except Exception:
            if body_error is None:
                raise
            _raise_as_it_was(body_error)
        self.check()

    def check(self) -> None:
        """Fail if what was asked has no script, as leaving the transport does; each failure is raised once.

        For frameworks that keep to themselves what a transport raises.

        Raises:
            AssertionError: See `transport()`.
        """
        failures, unscripted = [*self._failures], [*self._unscripted]
        self._failures.clear()
        self._unscripted.clear()
        if not self._strict:
            return
        if failures:
            raise failures[0]
        if unscripted:
            lines = "".join(f"\n  {title}" for title in dict.fromkeys(unscripted))
            raise AssertionError(
                f"{self!r} was asked for what it has no script for:{lines}\n"
                f"Script it, or say ScriptedServer(strict=False)"
            )

    def __repr__(self) -> str:
        return f"<ScriptedServer {self.name!r}>"

    # What its connections need.

    def _note(self, received: Received) -> None:
        """A message arrived."""
        self.received.append(received)
        for event in self._arrivals:
            event.set()

    def _left(self, connection: _Connection) -> None:
        """A connection ended."""
        with suppress(ValueError):
            self._connections.remove(connection)

    def _has_script(self, received: Received) -> bool:
        """Whether something is to be done about a notification."""
        return (received.method, None) in self._scripts

    async def _reply(self, received: Received) -> Frame:
        """What to answer: a dict with a result or an error."""
        try:
            result = await self._result(received)
        except Exception as error:
            if isinstance(error, (AssertionError, InterceptError)):
                self._failures.append(error)
            return {"error": _error_data(error)}
        if received.params.get("_meta", {}).get(_VERSION_KEY) or received.method == "server/discover":
            result = {"resultType": "complete", **result}
            if received.method in _CACHED:
                result = {"ttlMs": 0, "cacheScope": "private", **result}
        return {"result": result}

    async def _result(self, received: Received) -> Frame:
        method = received.method
        script = self._scripts.get((method, None))
        asked: Any = received.params
        if script is None and method in self._built_in:
            return self._built_in[method](received)
        if script is None and method in _NAMED:
            script = self._scripts.get((method, received.name or ""))
            asked = received.name if method == "resources/read" else received.arguments
        if script is None:
            raise self._refusal(received)
        answer = script._answer(asked)
        return script._result_of(await answer if isawaitable(answer) else answer)

    def _refusal(self, received: Received) -> Exception:
        method = received.method
        noun = _NAMED.get(method)
        if not noun or not self._listed[method]:
            self._unscripted.append(_title(method, received.name if noun else None))
            return make_error(_METHOD_NOT_FOUND, "Method not found")
        name = received.name or ""
        close = get_close_matches(name, self._listed[method], 1) or [*self._listed[method]]
        self._unscripted.append(f"{_title(method, name)}; what is scripted: {', '.join(map(repr, close))}")
        return make_error(_INVALID_PARAMS, f"Unknown {noun}: {name}")

    def _initialize(self, received: Received) -> Frame:
        wanted = received.params.get("protocolVersion")
        offered = wanted if wanted in _HANDSHAKE_VERSIONS else _HANDSHAKE_VERSIONS[-1]
        if self._protocol_version == _MODERN:
            data = {"supported": [_MODERN], "requested": wanted}
            raise make_error(_UNSUPPORTED_VERSION, "Unsupported protocol version", data)
        return {
            "protocolVersion": self._protocol_version or offered,
            "capabilities": self._capable_of(),
            **self._about,
        }

    def _discover(self, received: Received) -> Frame:
        if self._protocol_version in _HANDSHAKE_VERSIONS:
            raise make_error(_METHOD_NOT_FOUND, "Method not found")
        about = {"instructions": self._about["instructions"]} if "instructions" in self._about else {}
        meta = {"io.modelcontextprotocol/serverInfo": self._about["serverInfo"]}
        return {"supportedVersions": [_MODERN], "capabilities": self._capable_of(), **about, "_meta": meta}

    def _capable_of(self) -> Frame:
        if self._capabilities is not None:
            return dict(self._capabilities)
        return {method.partition("/")[0]: {} for method, listed in self._listed.items() if listed}


class _Connection(Peer):
    """One client of a server's."""

    def __init__(self, server: ScriptedServer, read: Any, write: Any) -> None:
        super().__init__(read, write)
        self._server = server
        self._in_progress: dict[Any, anyio.CancelScope] = {}
        self._questions: dict[Any, _Question] = {}
        self._ids = count(1)
        self._ended = False

    def received(self, frame: Frame, metadata: Any, tasks: TaskGroup) -> None:
        if self._ended:
            return  # nobody is there
        if "method" not in frame:
            question = self._questions.pop(frame.get("id"), None)
            if question is not None:
                question.resolve(frame)
            return
        received = Received(frame, metadata)
        self._server._note(received)
        if received.kind == "request":
            scope = self._in_progress[frame["id"]] = anyio.CancelScope()
            tasks.start_soon(self._answer, received, scope)
            return
        if received.method == "notifications/cancelled":
            given_up = self._in_progress.get(received.params.get("requestId"))
            if given_up is not None:
                given_up.cancel()
        if self._server._has_script(received):
            tasks.start_soon(self._take, received)

    async def _answer(self, received: Received, scope: anyio.CancelScope) -> None:
        _answering.set((self, received))
        request_id = received.frame["id"]
        with scope:
            try:
                reply = await self._server._reply(received)
            finally:
                self._in_progress.pop(request_id, None)
            self.tell({"jsonrpc": "2.0", "id": request_id, **reply})

    async def _take(self, received: Received) -> None:
        _answering.set((self, received))
        await self._server._reply(received)

    def tell(self, frame: Frame) -> None:
        """Send a message, if the client still is there."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.send_nowait(frame)

    async def ask(self, method: str, params: Mapping[str, Any] | None) -> Frame:
        """Ask the client."""
        if self._ended:
            raise closed_error()
        request_id = f"{self._server.name}-{next(self._ids)}"
        question = self._questions[request_id] = _Question()
        self.tell(_with_params({"jsonrpc": "2.0", "id": request_id, "method": method}, params))
        try:
            await question.answered.wait()
        except anyio.get_cancelled_exc_class():
            told = {"requestId": request_id, "reason": "given up"}
            self.tell({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": told})
            raise
        finally:
            self._questions.pop(request_id, None)
        answer = question.answer
        if answer is None:
            raise closed_error()
        if "error" in answer:
            error = answer["error"]
            raise make_error(error["code"], error["message"], error.get("data"))
        result: Frame = answer["result"]
        return result

    def end(self) -> None:
        """Hang up."""
        self._ended = True
        self._server._left(self)
        self._write.close()
        for scope in self._in_progress.values():
            scope.cancel()
        for question in self._questions.values():
            question.resolve(None)


class _Question:
    """What a client is asked, until it answers."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.answer: Frame | None = None

    def resolve(self, answer: Frame | None) -> None:
        """It answered; `None` if it never will."""
        self.answer = answer
        self.answered.set()


# What is being answered in this context.
_answering: ContextVar[tuple[_Connection, Received]] = ContextVar("mcp_intercept_answering")


def _raise_as_it_was(error: Exception) -> NoReturn:
    """Raise what left the body, and not the group that a task group made of it."""
    context = error.__context__
    try:
        raise error
    finally:
        # Raising it here would chain it to the group it came in.
        error.__context__ = context
        del error


def _title(method: str, name: str | None) -> str:
    return printable(method) if name is None else f"{printable(method)} {printable(name)!r}"


def _with_params(frame: Frame, params: Mapping[str, Any] | None) -> Frame:
    return frame if params is None else {**frame, "params": dict(params)}


def _raw_result(answer: Any, wanted: str) -> Frame:
    if isinstance(answer, BaseModel):
        return answer.model_dump(by_alias=True, mode="json", exclude_none=True)
    if isinstance(answer, Mapping):
        return dict(cast("Mapping[str, Any]", answer))
    raise InterceptError(f"a script answers with {wanted}, not with an object of type {type(answer).__name__}")


def _any_result(answer: Any) -> Frame:
    return {} if answer is None else _raw_result(answer, "a dict, a model, None or an exception")


def _tool_result(answer: Any) -> Frame:
    if answer is None:
        return {"content": []}
    if isinstance(answer, str):
        return {"content": [{"type": "text", "text": answer}]}
    if isinstance(answer, (list, tuple)):
        return {"content": [_any_result(block) for block in cast("list[Any]", answer)]}
    result = _raw_result(answer, "a str, a list, a dict, a model, None or an exception")
    if not _TOOL_KEYS & result.keys():
        raise InterceptError(
            'a dict that a script answers a tool call with is the result: it has "content" or "structuredContent"'
        )
    return result if result.get("resultType", "complete") != "complete" else {"content": [], **result}


def _prompt_result(answer: Any) -> Frame:
    if isinstance(answer, str):
        return {"messages": [{"role": "user", "content": {"type": "text", "text": answer}}]}
    return {"messages": []} if answer is None else _raw_result(answer, "a str, a dict, a model, None or an exception")


def _error_data(error: Exception) -> Frame:
    if isinstance(error, line.Error):
        return error.error.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {"code": _INTERNAL_ERROR, "message": str(error) or type(error).__name__}
