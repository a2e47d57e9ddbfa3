"""`MessageLog`: a middleware that notes every message, for tests to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, cast

from pydantic_core import to_jsonable_python

from mcp_intercept._chain import NextFunctionT
from mcp_intercept._context import Direction, Kind, MiddlewareContext, Outcome, outcome_of
from mcp_intercept._middleware import Middleware
from mcp_intercept.recording.interactions import name_in
from mcp_intercept.testing._line import Frame, dump

_MAX_LINES = 5
_MAX_VALUE = 80


@dataclass(slots=True, repr=False, eq=False)
class Message:
    """A message that passed, and how it ended.

    The representation shows neither params nor result, in which there may be secrets.

    Example::

        log = MessageLog()
        async with connect(ScriptedServer().transport(), log):
            [handshake] = log.requests("initialize")
        assert handshake.outcome == "ok"
        assert handshake.result["serverInfo"]["name"] == "scripted"
    """

    method: str
    """The wire name."""

    direction: Direction
    """Who sent it, seen from the client."""

    kind: Kind
    """Whether an answer is due."""

    connection_id: str
    """The connection it belongs to, see `MiddlewareContext.connection_id`."""

    params: dict[str, Any]
    """The params as they are on the wire when they reach the log; `{}` where there are none."""

    result: Any = None
    """The result as it is on the wire; `None` for a notification, a failure, and what is still under way."""

    error: BaseException | None = None
    """What was raised instead of a result."""

    outcome: Outcome | None = None
    """How it ended, see `MCPResponseContext.outcome`; `None` while it is under way."""

    @property
    def name(self) -> str | None:
        """The name of the tool or prompt, or the URI of the resource; `None` where there is no such thing."""
        return name_in(self.method, self.params)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the tool or prompt; `{}` where there are none."""
        return self.params.get("arguments") or {}

    def __repr__(self) -> str:
        return f"<Message {self.method} {self.direction} {self.kind} {self.outcome or 'under way'}>"


class MessageLog(Middleware):
    """Note every message of both directions, with what it said and how it ended, in the order of arrival.

    Where it stands in the chain decides what it sees: outermost the calls as the program makes them, innermost what is
    left of them after other middlewares. It may serve several sessions at once. It keeps everything; a `clear()`
    forgets.

    With `connect(..., on_frame=log.on_frame)`, `frames` has the JSON-RPC messages of the wire as well: those that pass
    no chain, such as the answers to the server's questions, among them.

    Example::

        server = ScriptedServer()
        server.on_tool("forecast", "sunny")
        log = MessageLog()
        async with connect(server.transport(), log) as session:
            await session.call_tool("forecast", {"city": "Oslo", "days": 2})
        log.assert_called("forecast", city="Oslo")
        assert log.calls == [("forecast", {"city": "Oslo", "days": 2})]
        assert log.outcomes == ["ok"]
        assert len(log.requests("initialize")) == 1
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        """Every message, in the order of arrival."""
        self.frames: list[tuple[Direction, Frame]] = []
        """The direction and the dict of every JSON-RPC message, where `on_frame` was given to `connect()`."""

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Every message, whatever its kind and direction."""
        params = _on_wire(context.params)
        message = Message(
            context.method,
            context.direction,
            context.kind,
            context.connection_id,
            cast("dict[str, Any]", params) if isinstance(params, dict) else {},
        )
        self.messages.append(message)
        try:
            result = await call_next(context)
        except BaseException as error:
            message.error = error
            message.outcome = outcome_of(None, error)
            raise
        message.result = _on_wire(result)
        message.outcome = outcome_of(result, None)
        return result

    def on_frame(self, direction: Direction, message: Any) -> None:
        """Note a JSON-RPC message; a `FrameListener`."""
        self.frames.append((direction, dump(message)))

    def requests(self, method: str | None = None, *, direction: Direction | None = None) -> list[Message]:
        """The requests, in the order of arrival.

        Args:
            method: Only those of this method.
            direction: Only those of this direction.
        """
        return self._select("request", method, direction)

    def notifications(self, method: str | None = None, *, direction: Direction | None = None) -> list[Message]:
        """The notifications, in the order of arrival.

        Args:
            method: Only those of this method.
            direction: Only those of this direction.
        """
        return self._select("notification", method, direction)

    def _select(self, kind: Kind, method: str | None, direction: Direction | None) -> list[Message]:
        return [
            message
            for message in self.messages
            if message.kind == kind and method in (None, message.method) and direction in (None, message.direction)
        ]

    @property
    def tools(self) -> list[str]:
        """The name of the tool of each tool call."""
        return [tool for tool, _ in self.calls]

    @property
    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """The name of the tool and the arguments of each tool call."""
        return [(message.name or "", message.arguments) for message in self.requests("tools/call")]

    @property
    def outcomes(self) -> list[Outcome | None]:
        """How each tool call ended; `None` if it is under way."""
        return [message.outcome for message in self.requests("tools/call")]

    def assert_called(self, tool: str, arguments: Mapping[str, Any] | None = None, /, **at_least: Any) -> list[Message]:
        """Fail unless a tool was called, however often; returns the calls that fit.

        Values are compared as JSON: 1 is 1.0, but not true.

        Example::

            server = ScriptedServer()
            server.on_tool("forecast", "sunny")
            log = MessageLog()
            async with connect(server.transport(), log) as session:
                await session.call_tool("forecast", {"city": "Oslo", "days": 2})
            log.assert_called("forecast", city="Oslo")
            [call] = log.assert_called("forecast", {"city": "Oslo", "days": 2})
            assert call.result["content"] == [{"type": "text", "text": "sunny"}]

        Args:
            tool: The name of the tool.
            arguments: All its arguments, as the dict that they are: the call had no others.
            at_least: Some of its arguments, by name; it may have had others.

        Raises:
            AssertionError: No call fits; it lists those that there were, the nearest first.
        """
        fitting = self._calls_of(tool, arguments, at_least)
        if not fitting:
            raise AssertionError(self._complaint(tool, arguments, at_least))
        return fitting

    def assert_not_called(self, tool: str, arguments: Mapping[str, Any] | None = None, /, **at_least: Any) -> None:
        """Fail if a tool was called; the arguments are those of `assert_called`.

        Raises:
            AssertionError: A call fits.
        """
        fitting = self._calls_of(tool, arguments, at_least)
        if fitting:
            shown = _lines([_call(message) for message in fitting])
            raise AssertionError(f"{tool} was called {_times(len(fitting))}:{shown}")

    def _calls_of(self, tool: str, arguments: Mapping[str, Any] | None, at_least: dict[str, Any]) -> list[Message]:
        return [
            message
            for message in self.requests("tools/call")
            if message.name == tool and not _differences(message.arguments, arguments, at_least)
        ]

    def _complaint(self, tool: str, arguments: Mapping[str, Any] | None, at_least: dict[str, Any]) -> str:
        calls = self.requests("tools/call")
        if not calls:
            return f"{tool} was not called, and no other tool was"
        same = [message for message in calls if message.name == tool]
        if not same:
            calls.sort(key=lambda message: -SequenceMatcher(None, tool, message.name or "").ratio())
            return f"{tool} was not called, but, the nearest first:{_lines([_call(message) for message in calls])}"
        differences = {id(message): _differences(message.arguments, arguments, at_least) for message in same}
        same.sort(key=lambda message: len(differences[id(message)]))
        shown = _lines([f"{_call(message)}: {', '.join(differences[id(message)])}" for message in same])
        wanted = _shown_arguments({**(arguments or {}), **at_least}) or "no arguments"
        return f"{tool} was not called with {wanted}, but {_times(len(same))} otherwise, the nearest first:{shown}"

    def clear(self) -> None:
        """Forget everything noted so far."""
        self.messages.clear()
        self.frames.clear()

    def __repr__(self) -> str:
        # Not what was said, which may be secret.
        failed = sum(message.outcome not in (None, "ok") for message in self.messages)
        return f"<MessageLog: {len(self.messages)} messages, {len(self.calls)} tool calls, {failed} failed>"


def _on_wire(value: Any) -> Any:
    try:
        return to_jsonable_python(value, by_alias=True, exclude_none=True)
    except (ValueError, RecursionError):  # PydanticSerializationError is one
        return value  # the SDK has its own way with what is no JSON


def _differences(
    arguments: Mapping[str, Any], exactly: Mapping[str, Any] | None, at_least: Mapping[str, Any]
) -> list[str]:
    wanted = {**(exactly or {}), **at_least}
    found = [
        f"{name} is {_shown(arguments[name])}" if name in arguments else f"{name} is missing"
        for name in wanted
        if name not in arguments or not _same_json(arguments[name], wanted[name])
    ]
    if exactly is not None:
        found += [f"{name} is there as well" for name in arguments if name not in wanted]
    return found


def _same_json(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, Mapping):
        ones, others = cast("dict[str, Any]", one), cast("Mapping[str, Any]", other)
        return ones.keys() == others.keys() and all(_same_json(ones[key], others[key]) for key in ones)
    if isinstance(one, list) and isinstance(other, (list, tuple)):
        items, other_items = cast("list[object]", one), cast("list[object]", other)
        return len(items) == len(other_items) and all(map(_same_json, items, other_items))
    if isinstance(one, bool) != isinstance(other, bool) and isinstance(other, (bool, int, float)):
        return False  # to Python, True is 1
    return bool(one == other)


def _call(message: Message) -> str:
    return f"{message.name}({_shown_arguments(message.arguments)})"


def _shown_arguments(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MAX_VALUE else f"{shown[:_MAX_VALUE]}..."


def _lines(lines: list[str]) -> str:
    rest = [f"... and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
    return "".join(f"\n  {line}" for line in [*lines[:_MAX_LINES], *rest])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
