"""`FaultMiddleware`: delays, errors, lost messages and lost connections, by rules and a seed."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast, get_args
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import checkpoint
from pydantic_core import to_jsonable_python

from mcp_intercept._chain import NextFunctionT
from mcp_intercept._context import Direction, MiddlewareContext, is_closed, is_sdk_timeout
from mcp_intercept._middleware import Middleware
from mcp_intercept._sdk import line
from mcp_intercept._session import CallbackClientSession, connection_of
from mcp_intercept.errors import InterceptError
from mcp_intercept.methods import METHODS
from mcp_intercept.testing._line import (
    closed_before_error,
    closed_error,
    make_error,
    notify_on_closed,
    patience_of,
    timeout_error,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack  # pydantic brings it; only type checkers need it

FaultKind: TypeAlias = Literal["delay", "error", "drop", "disconnect"]
Side: TypeAlias = Literal["request", "response"]

_HANDSHAKE = frozenset({"initialize", "server/discover", "notifications/initialized"})


class FaultRule(TypedDict, total=False):
    """Which messages a fault happens to: what all kinds of `Fault` take besides their own.

    Example::

        rule: FaultRule = {"tool": "forecast", "times": 1}
        FaultMiddleware([Fault.delay(0.01, **rule), Fault.error(-32000, "no luck", **rule)])
    """

    method: str | None
    """The wire name. By default every message but the handshake, and of those that the server sends only if `direction`
    says so."""

    tool: str | None
    """The name of the tool, for calls of one tool."""

    direction: Direction | None
    """Who sends the message, seen from the client."""

    side: Side
    """`"request"`: before the other side gets it, which never does unless it is a delay. `"response"`: after it has
    done what was asked."""

    probability: float
    """How likely it happens to a message that the rule fits, from 0 to 1."""

    times: int | None
    """How often it happens at most."""

    after: int
    """How many messages that the rule fits pass before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fault:
    """What goes wrong, and with which messages; made by `delay()`, `error()`, `drop()` or `disconnect()`.

    What they take besides their own arguments: see `FaultRule`.

    Example::

        Fault.error(-32000, "busy", tool="forecast", times=2)
        Fault.drop(method="notifications/message", probability=0.5)
        Fault.disconnect(side="response", after=3)

    Raises:
        InterceptError: An argument is not what it should be, or clashes with another.
    """

    kind: FaultKind
    """What goes wrong."""

    seconds: float = 0.0
    """How long a delay is."""

    code: int = -32603
    """The code of an error."""

    message: str = ""
    """The message of an error."""

    data: Any = None
    """The data of an error."""

    method: str | None = None
    """See `FaultRule`, as the fields below."""

    tool: str | None = None
    """The name of the tool."""

    direction: Direction | None = None
    """Who sends the message."""

    side: Side = "request"
    """Before or after the other side gets it."""

    probability: float = 1.0
    """How likely it happens."""

    times: int | None = None
    """How often it happens at most."""

    after: int = 0
    """How many messages pass before."""

    @classmethod
    def delay(cls, seconds: float, **rule: Unpack[FaultRule]) -> Fault:
        """The other side is slow. A caller whose timeout is shorter meets the SDK's timeout.

        Example::

            Fault.delay(0.2, method="tools/call", tool="forecast")

        Args:
            seconds: How slow.
            rule: See `FaultRule`.
        """
        return cls(kind="delay", seconds=seconds, **rule)

    @classmethod
    def error(cls, code: int, message: str, data: Any = None, **rule: Unpack[FaultRule]) -> Fault:
        """A request is answered with a JSON-RPC error: the caller meets an `McpError` (of SDK 2.x `MCPError`).

        Example::

            Fault.error(-32000, "server is busy", probability=0.1)

        Args:
            code: The code of the error.
            message: Its message.
            data: What else it says.
            rule: See `FaultRule`.
        """
        return cls(kind="error", code=code, message=message, data=data, **rule)

    @classmethod
    def drop(cls, **rule: Unpack[FaultRule]) -> Fault:
        """A message never arrives, or the answer to it. A caller waits in vain, until its own timeout or cancellation.

        Example::

            Fault.drop(method="resources/read", side="response")

        Args:
            rule: See `FaultRule`.
        """
        return cls(kind="drop", **rule)

    @classmethod
    def disconnect(cls, **rule: Unpack[FaultRule]) -> Fault:
        """The server dies. Every call that waits, and every later one of the session, fails as the SDK has it.

        Example::

            Fault.disconnect(tool="crash", side="response")

        Args:
            rule: See `FaultRule`.
        """
        return cls(kind="disconnect", **rule)

    def __post_init__(self) -> None:
        _check_what(self)
        _check_which(self)
        _check_how_often(self)


class FaultMiddleware(Middleware):
    """Have things go wrong with the messages of both directions, by rules that are tried in order.

    A delay goes on to the next rule; any other fault ends what happens to a message. It may stand anywhere in the
    chain: what is outside of it meets the faults, such as a retry that is put to the test. What it does to a message
    counts into the timeout of its caller.

    The same seed has the same faults happen to the same messages. With a `probability`, that is so in whatever order
    they arrive, as the dice are thrown for what a message says (without `_meta`), and the how manieth it is that says
    so. Only `times` and `after` count in the order of arrival, and so do several sessions that share one of these and
    say the same.

    Example::

        server = ScriptedServer()
        server.on_tool("forecast", "sunny")
        faults = FaultMiddleware([Fault.error(-32000, "busy", tool="forecast", times=1)], seed=7)
        async with connect(server.transport(), faults) as session:
            try:
                await session.call_tool("forecast")
            except McpError as error:
                assert error.error.message == "busy"
            await session.call_tool("forecast")
        assert faults.injected == {"error": 1}

    Args:
        faults: What goes wrong, and with which messages.
        seed: What the dice are thrown with.

    Raises:
        InterceptError: An argument is not what it should be.
    """

    def __init__(self, faults: Iterable[Fault], *, seed: int = 0) -> None:
        if type(seed) is not int:
            raise InterceptError(f"seed must be an int, not an object of type {type(seed).__name__}")
        self._rules = [_Rule(fault, f"{seed}:{number}") for number, fault in enumerate(_checked_faults(faults))]
        self._injected: Counter[str] = Counter()
        self._connections: WeakKeyDictionary[object, _Connection] = WeakKeyDictionary()
        self._by_hand = _Connection()
        self._lock = Lock()

    @property
    def injected(self) -> Counter[str]:
        """How often what went wrong, by `"delay"`, `"error"`, `"drop"` and `"disconnect"`."""
        with self._lock:
            return Counter(self._injected)

    def count(self, fault: Fault) -> int:
        """How often one of the faults happened.

        Args:
            fault: The very object that was given.
        """
        with self._lock:
            return sum(rule.happened for rule in self._rules if rule.fault is fault)

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Every message, whatever its kind and direction."""
        connection = self._connection_of(context.session)
        if connection.closed:
            return await _refuse(context)
        plan = self._plan(context)
        if context.kind == "notification" or context.direction == "incoming":
            return await self._pass(context, call_next, plan, connection)
        with anyio.CancelScope() as scope:
            connection.waiting.add(scope)
            try:
                return await self._pass(context, call_next, plan, connection)
            finally:
                connection.waiting.discard(scope)
        # The connection ended meanwhile.
        raise closed_error()

    def _connection_of(self, session: Any) -> _Connection:
        if not isinstance(session, CallbackClientSession):
            return self._by_hand  # of a context that somebody made
        with self._lock:
            return self._connections.setdefault(connection_of(session), _Connection())

    def _plan(self, context: MiddlewareContext[Any]) -> list[_Rule]:
        """What is going to happen, settled before anything is awaited."""
        plan: list[_Rule] = []
        with self._lock:
            for rule in self._rules:
                if _concerns(rule.fault, context) and rule.strikes(context):
                    plan.append(rule)
                    if rule.fault.kind != "delay":
                        break
        return plan

    async def _pass(
        self,
        context: MiddlewareContext[Any],
        call_next: NextFunctionT[Any, Any],
        plan: list[_Rule],
        connection: _Connection,
    ) -> Any:
        if not plan:
            return await call_next(context)
        clock = _Clock(context)
        for rule in plan:
            if rule.fault.side == "request":
                await self._strike(rule, clock, connection)
                if rule.fault.kind in ("drop", "disconnect"):
                    return None  # a notification, and nobody is to know
        late = [rule for rule in plan if rule.fault.side == "response"]
        context = clock.context_of_rest()
        if not late:
            return await call_next(context)
        result: Any = None
        failure: Exception | None = None
        try:
            result = await call_next(context)
        except line.Error as error:
            if is_closed(error) or is_sdk_timeout(error):
                raise  # that was no answer
            failure = error
        for rule in late:
            await self._strike(rule, clock, connection)
        if failure is not None:
            raise failure
        return result

    async def _strike(self, rule: _Rule, clock: _Clock, connection: _Connection) -> None:
        fault, context = rule.fault, clock.context
        with self._lock:
            rule.happened += 1
            self._injected[fault.kind] += 1
        if fault.kind == "delay":
            await clock.wait(fault.seconds)
        elif fault.kind == "error":
            await checkpoint()
            raise make_error(fault.code, fault.message, fault.data)
        elif fault.kind == "disconnect":
            connection.close()
            await _lose(context, closed_error())
        elif context.kind == "request":
            await clock.wait(math.inf)


class _Rule:
    """A fault, and how often it could happen and did."""

    def __init__(self, fault: Fault, salt: str) -> None:
        self.fault = fault
        self.happened = 0
        self._salt = salt
        self._met = 0
        self._planned = 0
        self._said: Counter[bytes] = Counter()

    def strikes(self, context: MiddlewareContext[Any]) -> bool:
        """Whether it is to happen to a message that it concerns."""
        fault = self.fault
        self._met += 1
        # Thrown for those that pass before, too, so that what is said once more has the same luck.
        lucky = fault.probability < 1 and self._throw(context) >= fault.probability
        if lucky or self._met <= fault.after or self._planned == fault.times:
            return False
        self._planned += 1
        return True

    def _throw(self, context: MiddlewareContext[Any]) -> float:
        said = _digest(f"{self._salt}:{_said_by(context)}".encode())
        self._said[said] += 1
        thrown = _digest(said + str(self._said[said]).encode())
        return int.from_bytes(thrown, "big") / 256.0 ** len(thrown)


class _Connection:
    """Whether a connection has ended, and who waits for answers over it."""

    def __init__(self) -> None:
        self.closed = False
        self.waiting: set[anyio.CancelScope] = set()

    def close(self) -> None:
        """End it."""
        self.closed = True
        for scope in self.waiting:
            scope.cancel()


class _Clock:
    """The time that a caller waits for the answer to a message."""

    def __init__(self, context: MiddlewareContext[Any]) -> None:
        self.context = context
        is_asked = context.kind == "request" and context.direction == "outgoing"
        self._patience = patience_of(context) if is_asked else None
        self._deadline = math.inf if self._patience is None else anyio.current_time() + self._patience

    def context_of_rest(self) -> MiddlewareContext[Any]:
        """The context to go on with, for what is left of the time."""
        if self._patience is None:
            return self.context
        left = max(0.0, self._deadline - anyio.current_time())
        return replace(self.context, options=replace(self.context.options, timeout=left))

    async def wait(self, seconds: float) -> None:
        """Wait, but no longer than the caller would.

        Raises:
            McpError: The SDK's timeout.
        """
        if seconds < self._deadline - anyio.current_time():
            await anyio.sleep(seconds)
            return
        try:
            with anyio.fail_after(None if self._deadline == math.inf else self._deadline - anyio.current_time()):
                await anyio.sleep_forever()
        except TimeoutError:
            raise timeout_error(self.context.method, self._patience) from None


def _concerns(fault: Fault, context: MiddlewareContext[Any]) -> bool:
    """Whether a fault may happen to a message."""
    if context.kind == "notification" and (fault.kind == "error" or fault.side == "response"):
        return False  # it is not answered
    if fault.tool is not None:
        called = context.method == "tools/call" and context.direction == "outgoing"
        return called and getattr(context.params, "name", None) == fault.tool
    if fault.method is not None:
        return context.method == fault.method and fault.direction in (None, context.direction)
    return context.method not in _HANDSHAKE and context.direction == (fault.direction or "outgoing")


async def _lose(context: MiddlewareContext[Any], error: Exception) -> None:
    """Do what comes of a message over a connection that ends."""
    if context.kind == "notification":
        return
    if context.direction == "incoming":
        await anyio.sleep_forever()  # nobody is there to be answered
    await checkpoint()
    raise error


async def _refuse(context: MiddlewareContext[Any]) -> None:
    """Do what comes of a message over a connection that has ended."""
    if context.kind == "notification" and context.direction == "outgoing":
        notify_on_closed()
    await _lose(context, closed_before_error())


def _said_by(context: MiddlewareContext[Any]) -> str:
    try:
        said = to_jsonable_python(context.params, by_alias=True, exclude_none=True, serialize_unknown=True)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        said = {key: value for key, value in cast("dict[str, Any]", said).items() if key != "_meta"}
    return json.dumps([context.direction, context.kind, context.method, said], sort_keys=True)


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=8).digest()


def _checked_faults(faults: Any) -> list[Fault]:
    if isinstance(faults, Fault):
        raise InterceptError("faults must be a list; write FaultMiddleware([fault])")
    if not isinstance(faults, Iterable):
        raise InterceptError(f"faults must be a list of Fault, not an object of type {type(faults).__name__}")
    checked: list[Any] = [*faults]
    for fault in checked:
        if not isinstance(fault, Fault):
            raise InterceptError(f"faults must hold Fault.delay() and its like, not a {type(fault).__name__}")
    return checked


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_what(fault: Fault) -> None:
    if fault.kind not in get_args(FaultKind):
        raise InterceptError(f"kind must be one of {', '.join(get_args(FaultKind))}, not {fault.kind!r}")
    if not _is_number(fault.seconds) or not 0 <= fault.seconds < math.inf:
        raise InterceptError(f"seconds must be a number from 0 on, not {fault.seconds!r}; for ever is Fault.drop()")
    if type(fault.code) is not int:
        raise InterceptError(f"code must be an int, not {fault.code!r}")
    if not isinstance(fault.message, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users err
        raise InterceptError(f"message must be a str, not {fault.message!r}")


def _check_which(fault: Fault) -> None:
    for name in ("method", "tool"):
        value = getattr(fault, name)
        if value is not None and (not isinstance(value, str) or not value):
            raise InterceptError(f"{name} must be a str that is not empty, or None, not {value!r}")
    if fault.direction not in (None, *get_args(Direction)):
        raise InterceptError(f'direction must be "outgoing", "incoming" or None, not {fault.direction!r}')
    if fault.side not in get_args(Side):
        raise InterceptError(f'side must be "request" or "response", not {fault.side!r}')
    if fault.tool is not None and (fault.method not in (None, "tools/call") or fault.direction == "incoming"):
        raise InterceptError("tool is for outgoing tools/call only; leave method and direction out")
    row = METHODS.get(fault.method or "")
    if row is None:
        _warn_of_misspelling(fault.method)
        return
    wrong = {"client": "incoming", "server": "outgoing"}.get(row.sender)
    if fault.direction is not None and fault.direction == wrong:
        raise InterceptError(f"{fault.method} is never {wrong}; leave direction out")
    if row.kind == "notification" and (fault.kind == "error" or fault.side == "response"):
        what = "error" if fault.kind == "error" else 'side="response"'
        raise InterceptError(f"{fault.method} is a notification, which is not answered: it cannot meet {what}")


def _check_how_often(fault: Fault) -> None:
    if not _is_number(fault.probability) or not 0 <= fault.probability <= 1:
        raise InterceptError(f"probability must be a number from 0 to 1, not {fault.probability!r}")
    if fault.times is not None and (type(fault.times) is not int or fault.times < 1):
        raise InterceptError(f"times must be an int from 1 on, or None for no limit, not {fault.times!r}")
    if type(fault.after) is not int or fault.after < 0:
        raise InterceptError(f"after must be an int from 0 on, not {fault.after!r}")


def _warn_of_misspelling(method: str | None) -> None:
    close = get_close_matches(method or "", METHODS, 1, 0.85)
    if close:
        # The frames between are those of Fault itself.
        warnings.warn(f"{method} is no method of MCP; did you mean {close[0]}?", stacklevel=6)
