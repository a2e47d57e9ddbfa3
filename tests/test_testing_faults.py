"""`FaultMiddleware`: what a caller meets is what it would meet if it were so, and the same each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import ClientSession

from mcp_intercept import InterceptError, Middleware, MiddlewareContext, connect, intercept
from mcp_intercept.testing import Fault, FaultMiddleware, MessageLog, ScriptedServer
from tests.ears import Ears, Error, call, settled
from tests.wire import LINE_1

pytestmark = pytest.mark.anyio

SOON = 0.02
NEVER = 60.0
"""Longer than a test may take."""


def weather() -> ScriptedServer:
    server = ScriptedServer("weather")
    server.on_tool("forecast", lambda arguments: "sunny")
    server.on_tool("refuse", server.error(-32000, "no"))
    server.on_tool("hang", lambda arguments: anyio.sleep_forever())
    return server


def calls_of(server: ScriptedServer) -> list[str | None]:
    return [request.name for request in server.requests if request.method == "tools/call"]


async def error_of(calling: Any) -> Any:
    """The kind of error, and what it says."""
    try:
        await calling
    except Exception as error:
        data: Any = getattr(error, "error", None)
        return (type(error), *((data.code, data.message, data.data) if data else ()))
    return None


async def tell(session: Any) -> None:
    """Send a notification."""
    await session.send_roots_list_changed()


# Errors.


async def test_an_error_is_the_sdks_own() -> None:
    server, fault = weather(), Fault.error(-32001, "busy", {"for": 3}, tool="forecast", times=1)
    async with connect(server.transport(), FaultMiddleware([fault])) as session:
        assert await error_of(call(session, "forecast")) == (Error, -32001, "busy", {"for": 3})
        assert calls_of(server) == []
        await call(session, "forecast")
        assert calls_of(server) == ["forecast"]


async def test_an_error_in_place_of_the_response_lets_the_server_work_before() -> None:
    server = weather()
    async with connect(server.transport(), FaultMiddleware([Fault.error(-1, "lost", side="response")])) as session:
        assert await error_of(call(session, "forecast")) == (Error, -1, "lost", None)
        assert await error_of(call(session, "refuse")) == (Error, -1, "lost", None)
    assert calls_of(server) == ["forecast", "refuse"]


async def test_the_servers_questions_can_be_answered_with_an_error() -> None:
    server, ears = weather(), Ears()
    faults = FaultMiddleware([Fault.error(-5, "not here", direction="incoming")])
    async with connect(server.transport(), faults, **ears.options):
        assert await error_of(server.ask("roots/list")) == (Error, -5, "not here", None)
    assert ears.heard == []


# Delays.


async def test_a_delay_holds_up_what_it_is_for() -> None:
    server = weather()
    faults = FaultMiddleware([Fault.delay(NEVER, tool="forecast")])
    async with connect(server.transport(), faults) as session, anyio.create_task_group() as tasks:
        tasks.start_soon(call, session, "forecast")
        await settled()
        await session.send_ping()
        assert (calls_of(server), faults.injected) == ([], {"delay": 1})
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("side", ["request", "response"])
async def test_a_delay_ends_and_the_call_goes_on(side: Any) -> None:
    server = weather()
    faults = FaultMiddleware([Fault.delay(SOON, side=side, tool=tool) for tool in ("forecast", "refuse")])
    async with connect(server.transport(), faults, timeout=NEVER) as session:
        started = anyio.current_time()
        await call(session, "forecast")
        assert anyio.current_time() - started >= SOON
        assert await error_of(call(session, "refuse")) == (Error, -32000, "no", None)


@pytest.mark.parametrize("side", ["request", "response"])
async def test_a_delay_beyond_the_callers_patience_is_the_sdks_timeout(side: Any) -> None:
    server, log = weather(), MessageLog()
    faults = FaultMiddleware([Fault.delay(NEVER, side=side, method="tools/call")])
    async with connect(server.transport(), log, faults, timeout=SOON) as session:
        with pytest.raises(Error) as delayed:
            await call(session, "forecast")
        assert calls_of(server) == ([] if side == "request" else ["forecast"])
    async with connect(server.transport(), log, timeout=SOON) as session:
        with pytest.raises(Error) as bare:
            await call(session, "hang")
    assert log.outcomes == ["timeout", "timeout"]
    assert str(delayed.value) == str(bare.value).replace("CallToolRequest", "ClientRequest")
    assert delayed.value.error.code == bare.value.error.code


async def test_what_a_delay_took_is_gone_from_the_callers_patience() -> None:
    left: list[Any] = []

    async def note(context: MiddlewareContext[Any], call_next: Any) -> Any:
        left.append(context.options.timeout)
        return await call_next(context)

    faults = FaultMiddleware([Fault.delay(SOON, tool="forecast"), Fault.delay(SOON, tool="forecast", side="response")])
    async with connect(weather().transport(), faults, note, timeout=5) as session:
        await call(session, "forecast")
    assert left[:2] == [None, None]
    assert 0 < left[2] <= 5 - SOON


async def test_a_server_that_is_slow_on_top_of_a_delay_meets_what_is_left() -> None:
    server = weather()
    faults = FaultMiddleware([Fault.delay(0, tool="hang", side=side) for side in ("request", "response")])
    async with connect(server.transport(), MessageLog(), faults, timeout=SOON) as session:
        with pytest.raises(Error) as caught:
            await call(session, "hang")
    assert caught.value.error.code == (408 if LINE_1 else -32001)
    assert faults.injected == {"delay": 1}  # that was no answer which could be late


async def test_notifications_can_be_late() -> None:
    server, arrived = weather(), anyio.Event()
    ears = Ears(lambda name: arrived.set())
    faults = FaultMiddleware([Fault.delay(SOON, method="notifications/message")])
    async with connect(server.transport(), faults, **ears.options):
        started = anyio.current_time()
        server.notify("notifications/message", {"level": "info", "data": 1})
        with anyio.fail_after(30):
            await arrived.wait()
        assert anyio.current_time() - started >= SOON
    assert faults.injected == {"delay": 1}


# What is lost.


@pytest.mark.parametrize("side", ["request", "response"])
async def test_a_lost_message_has_its_caller_wait_until_its_own_timeout(side: Any) -> None:
    server, log = weather(), MessageLog()
    faults = FaultMiddleware([Fault.drop(method="tools/call", side=side)])
    async with connect(server.transport(), log, faults) as session:
        options: Any = {"read_timeout_seconds": SOON}
        if LINE_1:
            from datetime import timedelta

            options = {"read_timeout_seconds": timedelta(seconds=SOON)}
        for tool in ("forecast", "refuse"):
            with pytest.raises(Error) as caught:
                await session.call_tool(tool, **options)
            assert caught.value.error.code == (408 if LINE_1 else -32001)
    assert log.outcomes == ["timeout", "timeout"]
    assert calls_of(server) == ([] if side == "request" else ["forecast", "refuse"])


@pytest.mark.parametrize("side", ["request", "response"])
async def test_without_a_timeout_it_waits_until_it_is_given_up(side: Any) -> None:
    server, log = weather(), MessageLog()
    faults = FaultMiddleware([Fault.drop(tool="forecast", side=side)])
    async with connect(server.transport(), log, faults) as session, anyio.create_task_group() as tasks:
        tasks.start_soon(call, session, "forecast")
        await settled()
        assert log.outcomes == [None]
        tasks.cancel_scope.cancel()
    assert log.outcomes == ["cancelled"]


async def test_lost_notifications_never_arrive() -> None:
    server, ears = weather(), Ears()
    rules = [Fault.drop(method="notifications/message", times=1), Fault.drop(method="notifications/roots/list_changed")]
    faults = FaultMiddleware(rules)
    async with connect(server.transport(), faults, **ears.options) as session:
        for number in (1, 2):
            server.notify("notifications/message", {"level": "info", "data": number})
        await settled()
        await tell(session)
        await session.send_ping()
    assert [entry[1]["data"] for entry in ears.heard if entry[0] == "logging"] == [2]
    assert [received.method for received in server.notifications] == ["notifications/initialized"]
    assert [faults.count(rule) for rule in rules] == [1, 1]
    assert faults.count(Fault.drop()) == 0


async def test_a_lost_question_is_never_answered() -> None:
    server, ears = weather(), Ears()
    faults = FaultMiddleware([Fault.drop(method="roots/list", side="response")])
    async with connect(server.transport(), faults, **ears.options):
        with anyio.move_on_after(SOON) as scope:
            await server.ask("roots/list")
        assert scope.cancelled_caught
    assert [entry[0] for entry in ears.heard] == ["roots"]


# Lost connections.


async def ends(session: Any, end: Callable[[], None], server: ScriptedServer) -> list[Any]:
    """What becomes of everything on a connection that ends while a call waits."""
    seen: list[Any] = []

    async def hang() -> None:
        seen.append(await error_of(call(session, "hang")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hang)
        await server.wait_for("tools/call")
        end()
    seen.append(await error_of(session.send_ping()))
    seen.append(await error_of(call(session, "forecast")))
    seen.append(await error_of(tell(session)))
    return seen


async def test_the_end_of_a_connection_is_as_if_the_server_had_died() -> None:
    server = weather()
    async with connect(server.transport()) as session:
        died = await ends(session, server.disconnect, server)
    server = weather()
    faults = FaultMiddleware([Fault.disconnect(method="notifications/message")])
    async with connect(server.transport(), faults) as session:
        last = {"level": "info", "data": "goodbye"}
        assert await ends(session, lambda: server.notify("notifications/message", last), server) == died
    assert died[0] == (Error, -32000, "Connection closed", None)
    assert faults.injected == {"disconnect": 1}


@pytest.mark.parametrize("side", ["request", "response"])
async def test_a_call_that_ends_the_connection_ends_the_others(side: Any) -> None:
    server, found = weather(), list[Any]()
    crash = server.on_tool("crash")
    faults = FaultMiddleware([Fault.disconnect(tool="crash", side=side)])

    async def meet(session: Any, tool: str) -> None:
        found.append(await error_of(call(session, tool)))

    async with connect(server.transport(), faults) as session, anyio.create_task_group() as tasks:
        tasks.start_soon(meet, session, "hang")
        await server.wait_for("tools/call")
        tasks.start_soon(meet, session, "crash")
    assert found == [(Error, -32000, "Connection closed", None)] * 2
    assert crash.called == (side == "response")


async def test_after_the_end_nothing_comes_in() -> None:
    server, ears = weather(), Ears()
    faults = FaultMiddleware([Fault.disconnect(method="notifications/message", after=1)])
    async with connect(server.transport(), faults, **ears.options) as session, anyio.create_task_group() as tasks:
        for number in (1, 2, 3):
            server.notify("notifications/message", {"level": "info", "data": number})
        await settled()
        tasks.start_soon(server.ask, "roots/list")
        await settled()
        assert (await error_of(session.send_ping()))[0] in (Error, anyio.ClosedResourceError)
        tasks.cancel_scope.cancel()
    assert [entry[1]["data"] for entry in ears.heard if entry[0] == "logging"] == [1]
    assert [entry for entry in ears.heard if entry[0] == "roots"] == []


async def test_a_question_can_be_the_last_that_arrives() -> None:
    server, ears = weather(), Ears()
    faults = FaultMiddleware([Fault.disconnect(method="roots/list")])
    async with connect(server.transport(), faults, **ears.options) as session, anyio.create_task_group() as tasks:
        tasks.start_soon(server.ask, "roots/list")
        await settled()
        assert await error_of(session.send_ping()) is not None
        tasks.cancel_scope.cancel()
    assert ears.heard == []


async def test_the_last_notification_is_lost_without_a_word() -> None:
    server = weather()
    faults = FaultMiddleware([Fault.disconnect(method="notifications/roots/list_changed")])
    async with connect(server.transport(), faults) as session:
        await tell(session)
        assert await error_of(session.send_ping()) is not None


async def test_other_sessions_go_on() -> None:
    server, faults = weather(), FaultMiddleware([Fault.disconnect(tool="forecast", times=1)])
    async with connect(server.transport(), faults) as one, connect(server.transport(), faults) as other:
        assert (await error_of(call(one, "forecast")))[1:3] == (-32000, "Connection closed")
        await call(other, "forecast")
        assert await error_of(one.send_ping()) is not None


async def test_every_wrapper_around_the_session_meets_the_end() -> None:
    faults = FaultMiddleware([Fault.disconnect(tool="forecast")])
    async with connect(weather().transport(), faults) as session:
        outer = intercept(session, faults)
        assert await error_of(call(outer, "forecast")) is not None
        assert await error_of(session.send_ping()) is not None


# Which messages, and how often.


async def test_without_a_method_it_concerns_every_request_but_the_handshake() -> None:
    server, ears = weather(), Ears()
    fault = Fault.error(-1, "no")
    async with connect(server.transport(), FaultMiddleware([fault]), **ears.options) as session:
        assert await error_of(session.send_ping()) == (Error, -1, "no", None)
        await tell(session)
        assert "roots" in await server.ask("roots/list")
    with pytest.raises(Error, match="no"):
        async with connect(server.transport(), FaultMiddleware([Fault.error(-1, "no", method="initialize")])):
            pass


async def test_a_method_of_both_sides_can_be_told_apart_by_direction() -> None:
    server = weather()
    faults = FaultMiddleware([Fault.error(-1, "no", method="ping", direction="incoming")])
    async with connect(server.transport(), faults) as session:
        await session.send_ping()
        assert await error_of(server.ask("ping")) == (Error, -1, "no", None)


async def test_some_pass_before_and_then_it_happens_so_often() -> None:
    faults = FaultMiddleware([Fault.error(-1, "no", method="ping", after=2, times=2)])
    async with connect(weather().transport(), faults) as session:
        found = [await error_of(session.send_ping()) is not None for _ in range(6)]
    assert found == [False, False, True, True, False, False]
    assert faults.injected == {"error": 2}
    assert faults.injected["drop"] == 0


async def test_delays_go_on_to_the_next_rule_and_the_rest_does_not() -> None:
    rules = [Fault.delay(0), Fault.error(-1, "first", times=1), Fault.error(-2, "second")]
    faults = FaultMiddleware(rules)
    async with connect(weather().transport(), faults) as session:
        assert (await error_of(session.send_ping()))[1] == -1
        assert (await error_of(session.send_ping()))[1] == -2
    assert [faults.count(rule) for rule in rules] == [2, 1, 1]


async def unlucky(order: list[int], seed: int = 7, probability: float = 0.3) -> set[int]:
    """The numbers that meet the fault when they are called in this order, all at once."""
    met: set[int] = set()
    faults = FaultMiddleware([Fault.error(-1, "no", probability=probability, tool="forecast")], seed=seed)
    async with connect(weather().transport(), faults) as session:
        await session.list_tools()

        async def ask(number: int) -> None:
            if await error_of(session.call_tool("forecast", {"number": number})) is not None:
                met.add(number)

        async with anyio.create_task_group() as tasks:
            for number in order:
                tasks.start_soon(ask, number)
    assert faults.injected == ({"error": len(met)} if met else {})
    return met


async def test_the_same_seed_meets_the_same_messages_in_whatever_order() -> None:
    order = list(range(200))
    found = await unlucky(order)
    assert 30 < len(found) < 90
    random.Random(1).shuffle(order)
    assert await unlucky(order) == found
    assert await unlucky(order, seed=8) != found
    assert await unlucky(order, probability=0) == set()
    assert await unlucky(order, probability=1) == set(order)


async def test_a_retry_has_another_throw_which_is_the_same_each_time() -> None:
    async def throws() -> list[bool]:
        faults = FaultMiddleware([Fault.error(-1, "no", method="ping", probability=0.5)], seed=1)
        async with connect(weather().transport(), faults) as session:
            return [await error_of(session.send_ping()) is None for _ in range(20)]

    first = await throws()
    assert 3 < sum(first) < 17
    assert await throws() == first


async def test_metadata_has_no_say_in_the_throw() -> None:
    async def throws(token: str | None) -> list[bool]:
        faults = FaultMiddleware([Fault.error(-1, "no", tool="forecast", probability=0.5)])
        async with connect(weather().transport(), faults) as session:
            return [await error_of(call(session, "forecast", token=token)) is None for _ in range(20)]

    assert await throws("a") == await throws(None)


async def by_hand(faults: Middleware, params: Any) -> Any:
    """A message that nobody sends."""
    context = MiddlewareContext("1", "acme/do", params, "c", 0.0)

    async def call_next(context: Any) -> str:
        await checkpoint()
        return "done"

    return await faults(context, call_next)


async def test_a_chain_by_hand_needs_no_session_and_no_json() -> None:
    faults = FaultMiddleware([Fault.drop(probability=0), Fault.disconnect(after=1, side="response")])
    params: dict[str, Any] = {}
    params["itself"] = params
    assert await by_hand(faults, params) == "done"
    assert (await error_of(by_hand(faults, [1])))[1:3] == (-32000, "Connection closed")


async def test_without_a_fault_nothing_changes() -> None:
    server = weather()
    async with connect(server.transport(), FaultMiddleware([])) as session:
        await call(session, "forecast")
        with anyio.move_on_after(SOON) as scope:
            await call(session, "hang")
        assert scope.cancelled_caught
    assert calls_of(server) == ["forecast", "hang"]


# Cancellation.


MOMENTS: dict[str, Fault] = {
    "delayed before": Fault.delay(NEVER, method="tools/call"),
    "delayed after": Fault.delay(NEVER, method="tools/call", side="response"),
    "lost before": Fault.drop(method="tools/call"),
    "lost after": Fault.drop(method="tools/call", side="response"),
    "under way": Fault.delay(0, method="tools/call", side="response"),
}


@pytest.mark.parametrize("patience", [None, NEVER])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_call_can_be_given_up_at_any_moment(moment: str, patience: float | None) -> None:
    server, log = weather(), MessageLog()
    faults = FaultMiddleware([MOMENTS[moment]])
    async with connect(server.transport(), log, faults, timeout=patience) as session:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, session, "hang" if moment == "under way" else "forecast")
                await settled()
                scope.cancel()
        assert scope.cancelled_caught
        assert log.outcomes == ["cancelled"]
        await session.send_ping()


@pytest.mark.parametrize("fault", [Fault.error(-1, "no"), Fault.disconnect()], ids=lambda fault: fault.kind)
async def test_a_call_that_was_given_up_before_meets_no_fault(fault: Fault) -> None:
    log = MessageLog()
    async with connect(weather().transport(), log, FaultMiddleware([fault])) as session:
        for _ in range(2):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await session.send_ping()
            assert scope.cancelled_caught
    assert [request.outcome for request in log.requests("ping")] == ["cancelled", "cancelled"]


async def test_leaving_the_session_ends_questions_that_are_never_answered() -> None:
    server, ears = weather(), Ears()
    with anyio.fail_after(30):
        faults = FaultMiddleware([Fault.drop(method="roots/list")])
        async with server.transport() as streams, anyio.create_task_group() as tasks:
            inner = ClientSession(*streams, **ears.options)
            async with intercept(inner, faults) as session:
                await session.initialize()
                tasks.start_soon(error_of, server.ask("roots/list"))  # line 2 refuses it then
                await settled()
            tasks.cancel_scope.cancel()


# What is refused.


WRONG: dict[str, Callable[[], Any]] = {
    "seconds must be a number from 0 on, not -1": lambda: Fault.delay(-1),
    "seconds must be .* for ever is Fault.drop": lambda: Fault.delay(float("inf")),
    "seconds must be .*, not nan": lambda: Fault.delay(float("nan")),
    "seconds must be .*, not True": lambda: Fault.delay(True),
    "code must be an int, not '1'": lambda: Fault.error("1", "x"),  # type: ignore[arg-type]  # pyright: ignore
    "message must be a str, not 1": lambda: Fault.error(1, 1),  # type: ignore[arg-type]  # pyright: ignore
    "kind must be one of delay, error, drop, disconnect": lambda: Fault(kind="explode"),  # type: ignore[arg-type]  # pyright: ignore
    "method must be a str that is not empty": lambda: Fault.drop(method=""),
    "tool must be a str": lambda: Fault.drop(tool=3),  # type: ignore[arg-type]  # pyright: ignore
    "direction must be": lambda: Fault.drop(direction="up"),  # type: ignore[arg-type]  # pyright: ignore
    "side must be": lambda: Fault.drop(side="left"),  # type: ignore[arg-type]  # pyright: ignore
    "tool is for outgoing tools/call only": lambda: Fault.drop(tool="t", method="ping"),
    "tool is for outgoing tools/call": lambda: Fault.drop(tool="t", direction="incoming"),
    "tools/list is never incoming": lambda: Fault.drop(method="tools/list", direction="incoming"),
    "roots/list is never outgoing": lambda: Fault.drop(method="roots/list", direction="outgoing"),
    "is a notification, .* cannot meet error": lambda: Fault.error(1, "x", method="notifications/message"),
    "cannot meet side=.response.": lambda: Fault.drop(method="notifications/message", side="response"),
    "probability must be a number from 0 to 1, not 2": lambda: Fault.drop(probability=2),
    "probability must be .* not 'x'": lambda: Fault.drop(probability="x"),  # type: ignore[arg-type]  # pyright: ignore
    "times must be an int from 1 on, or None for no limit, not 0": lambda: Fault.drop(times=0),
    "after must be an int from 0 on, not -1": lambda: Fault.drop(after=-1),
    "seed must be an int, not an object of type str": lambda: FaultMiddleware([], seed="x"),  # type: ignore[arg-type]  # pyright: ignore
    "write FaultMiddleware": lambda: FaultMiddleware(Fault.drop()),  # type: ignore[arg-type]  # pyright: ignore
    "faults must be a list of Fault, not an object of type int": lambda: FaultMiddleware(3),  # type: ignore[arg-type]  # pyright: ignore
    "faults must hold Fault.delay.. and its like, not a str": lambda: FaultMiddleware(["x"]),  # type: ignore[list-item]  # pyright: ignore
}


@pytest.mark.parametrize("complaint", WRONG)
def test_what_cannot_be_is_refused_at_once(complaint: str) -> None:
    with pytest.raises(InterceptError, match=complaint):
        WRONG[complaint]()


def test_a_method_that_looks_misspelled_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="tool/call is no method of MCP; did you mean tools/call") as caught:
        Fault.drop(method="tool/call")
    assert caught[0].filename == __file__
