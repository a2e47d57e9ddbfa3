"""`ScriptedServer`: a server without a process and without a server SDK, that says what a test has scripted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mcp_intercept.errors import InterceptError
from mcp_intercept.testing._connection import Connection, answered_by, opened
from mcp_intercept.testing._handshake import Handshake
from mcp_intercept.testing._line import Frame, make_error
from mcp_intercept.testing._received import Inbox, Received
from mcp_intercept.testing._repertoire import Repertoire
from mcp_intercept.testing._results import any_result, prompt_result, resource_result, tool_result
from mcp_intercept.testing._script import Answer, Script


class ScriptedServer:
    """A server for tests that says what you script, as far down as JSON-RPC: no process, no sockets, no server SDK.

    Its `transport()` goes wherever one of the SDK's does: `connect()`, `ClientSession(*streams)`, `Client` of SDK 2.x,
    agent frameworks. It speaks every version of the protocol, answers the handshake, pings, and lists of what is
    scripted. A request that the client gives up is given up here, too.

    Answers are given in order, and the last again and again. Each is a value; an exception, which is a JSON-RPC error
    (that of an `McpError` or `MCPError`, see `error()`, else -32603 with its text); or a function, which may be async,
    takes what was asked as its one argument, and returns or raises one of these. For an answer that never comes:
    `lambda asked: anyio.sleep_forever()`.

    What has no script is refused with a JSON-RPC error, and unless it is `strict=False`, leaving the transport fails,
    even where the agent swallowed the error. In any case it fails if an assertion in a function of a script did.

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
        handshake = Handshake(name, version, instructions, capabilities, protocol_version)
        self.name: str = name
        """What the server calls itself."""
        self._inbox = Inbox()
        self.received: list[Received] = self._inbox.received
        """Every request and notification that arrived, in order."""
        self._repertoire = Repertoire(handshake)
        self._connections: list[Connection] = []
        self._strict = strict

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

        A tool that fails answers with `isError`, as servers make of what a tool raises; an exception is the JSON-RPC
        error of a server that cannot call it.

        Example::

            server = ScriptedServer()
            server.on_tool("add", lambda arguments: {"structuredContent": {"sum": arguments["a"] + arguments["b"]}})
            failed = {"content": [{"type": "text", "text": "no such city"}], "isError": True}
            server.on_tool("flaky", failed, server.error(-32000, "not yet"), "at last")
            async with connect(server.transport()) as session:
                await session.call_tool("add", {"a": 1, "b": 2})
                assert (await session.call_tool("flaky")).content[0].text == "no such city"

        Args:
            name: Its name.
            answers: A str, which becomes text content; a list of content blocks; a dict or model, which is the result
                of `tools/call`; an exception; or a function of the dict of arguments. None at all is a result without
                content.
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
        return self._repertoire.script_one("tools/call", name, answers, tool_result, tool)

    def on_resource(self, uri: str, *answers: Answer, name: str | None = None, mime_type: str | None = None) -> Script:
        """Script a resource, which `resources/list` then shows; for resources of any URI, see `on()`.

        Example::

            server = ScriptedServer()
            server.on_resource("memo://1", "remember", mime_type="text/plain")
            async with connect(server.transport()) as session:
                [contents] = (await session.read_resource("memo://1")).contents
            assert contents.text == "remember"

        Args:
            uri: Its URI.
            answers: A str or bytes, which become its contents; a dict or model, which is the result of
                `resources/read`; an exception; or a function of the URI. None at all is no contents.
            name: Its name; by default the URI.
            mime_type: The MIME type of its contents.

        Raises:
            InterceptError: An answer is none of these.
        """
        kind = {} if mime_type is None else {"mimeType": mime_type}
        resource = {"uri": uri, "name": name or uri, **kind}
        return self._repertoire.script_one("resources/read", uri, answers, resource_result(uri, kind), resource)

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
                `prompts/get`; an exception; or a function of the dict of arguments. None at all is no messages.
            description: Its description.
            arguments: The names of its arguments.

        Raises:
            InterceptError: An answer is none of these, or `arguments` is a str.
        """
        if isinstance(arguments, str):
            raise InterceptError(f"arguments must be a list of names; write arguments=[{arguments!r}]")
        prompt: Frame = {"name": name, "arguments": [{"name": argument} for argument in arguments]}
        if description is not None:
            prompt["description"] = description
        return self._repertoire.script_one("prompts/get", name, answers, prompt_result, prompt)

    def on(self, method: str, *answers: Answer) -> Script:
        """Script any method, those that are answered without a script among them.

        It goes before `on_tool()`, `on_resource()` and `on_prompt()`.

        Example::

            server = ScriptedServer()
            server.on("completion/complete", {"completion": {"values": ["Oslo"]}})
            server.on("resources/read", lambda params: {"contents": [{"uri": params["uri"], "text": "whatever"}]})
            server.on("tools/list", lambda params: server.error(-32000, "not today"))

        Args:
            method: The wire name, of a request or a notification. The latter is not answered, but a function called.
            answers: A dict or model, which is the result; an exception; or a function of the dict of params. `None`,
                which a function returns that returns nothing, is an empty result.

        Raises:
            InterceptError: An answer is none of these.
        """
        return self._repertoire.script(method, answers, any_result)

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
        for connection in self._connected():
            connection.tell(method, params)

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
        answering = answered_by(self._repertoire)
        if answering is None:
            raise InterceptError("progress() is for the functions of a script; elsewhere use notify()")
        connection, request = answering
        connection.report(request, progress, total, message)

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Frame:
        """Ask the client, and return the result it answers with.

        In a function of a script that is the client which is being answered, else the one that connected last. If
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
        answering = answered_by(self._repertoire)
        connection = self._connected()[-1] if answering is None else answering[0]
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
        for connection in self._connected():
            connection.end()

    def _connected(self) -> list[Connection]:
        connected = [connection for connection in self._connections if not connection.has_ended]
        if not connected:
            raise InterceptError(f"no client is connected to {self!r}; use it inside `async with` of its transport()")
        return connected

    # What it hears.

    @property
    def requests(self) -> list[Received]:
        """The requests that arrived, in order."""
        return self._inbox.of_kind("request")

    @property
    def notifications(self) -> list[Received]:
        """The notifications that arrived, in order."""
        return self._inbox.of_kind("notification")

    @property
    def unused(self) -> list[Script]:
        """The scripts that nothing was asked of; tests that want them all used `assert server.unused == []`."""
        return self._repertoire.unused

    async def wait_for(self, method: str, count: int = 1, *, timeout: float = 5.0) -> Received:  # noqa: ASYNC109 - told with what did arrive
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
        return await self._inbox.wait_for(method, count, timeout)

    # How it is connected.

    @asynccontextmanager
    async def transport(self) -> AsyncGenerator[tuple[Any, Any], None]:
        """A connection to it: a transport as the SDK has them, whose value is a pair of streams.

        Each is entered once; for another connection call it again.

        Example::

            server = ScriptedServer()
            async with server.transport() as streams, ClientSession(*streams) as session:
                await session.initialize()

        Raises:
            AssertionError: On leaving, unless something else was raised: what was asked has no script (see `strict`),
                or an assertion failed in a function of a script.
            InterceptError: A function of a script answered what is no answer.
        """
        async with opened(self.name, self._inbox, self._repertoire) as (connection, streams):
            self._connections.append(connection)
            try:
                yield streams
            finally:
                self._connections.remove(connection)
        self.check()

    def check(self) -> None:
        """Fail if what was asked has no script, as leaving the transport does; each failure is raised once.

        For frameworks that keep to themselves what a transport raises.

        Example::

            server = ScriptedServer()
            async with connect(server.transport()):
                server.check()

        Raises:
            AssertionError: See `transport()`.
            InterceptError: See `transport()`.
        """
        failures, unscripted = self._repertoire.take_failures(), self._repertoire.take_unscripted()
        if failures:
            raise failures[0]
        if unscripted and self._strict:
            lines = "".join(f"\n  {title}" for title in dict.fromkeys(unscripted))
            raise AssertionError(
                f"{self!r} was asked for what it has no script for:{lines}\n"
                f"Script it, or say ScriptedServer(strict=False)"
            )

    def __repr__(self) -> str:
        return f"<ScriptedServer {self.name!r}>"
