"""What wrong wrappings change that frames and results do not show: identity, tasks, suspensions, who fails of what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import ClientSession
from mcp.shared.message import SessionMessage
from pydantic import BaseModel

from mcp_intercept import intercept, intercept_all
from mcp_intercept._wire import WireTap
from tests.ears import (
    NOTIFICATIONS,
    REQUESTS,
    Ears,
    SeenWithVendors,
    T,
    Wrap,
    around,
    bare,
    notification,
    only,
    request,
    settled,
    speaking,
    through,
)
from tests.test_cancellation import Steps
from tests.test_fidelity import CALLS, WRAPPINGS, call_tool_request, outcome, parts
from tests.wire import LINE_1, RESULTS, Frame, wire

pytestmark = pytest.mark.anyio

ASKED = {"sampling": "sampling/createMessage", "elicitation": "elicitation/create", "roots": "roots/list"}
"""What each callback is asked with."""


class Tapped(ClientSession):
    """A bare session, but for the tap between it and its transport."""

    def __init__(self, read: Any, write: Any, **options: Any) -> None:
        super().__init__(*WireTap(lambda direction, message: None).streams(read, write), **options)


# ---------------------------------------------------------------------------------------------------------------------
# Objects and tasks.


@pytest.mark.parametrize("name", ASKED)
async def test_a_callback_gets_the_very_params_and_the_chain_its_very_result(name: str) -> None:
    asked: list[Any] = []
    answered: list[Any] = []
    answer = Ears.RESULTS[name]

    async def callback(context: Any, *params: Any) -> Any:
        asked.extend(params)
        return answer

    async def note(context: Any, call_next: Any) -> Any:
        if name != "roots":
            asked.append(context.params)
        result = await call_next(context)
        answered.append(result)
        return result

    def twice(session: ClientSession) -> tuple[ClientSession, ClientSession]:
        wrapper = intercept(intercept(session, only(note)), only(note))
        return wrapper, wrapper

    option = {"sampling": "sampling_callback", "elicitation": "elicitation_callback", "roots": "list_roots_callback"}
    async with speaking(twice, **{option[name]: callback}) as (_, server):
        assert "result" in await server.ask(ASKED[name], REQUESTS[ASKED[name]])
    assert len(asked) == (0 if name == "roots" else 3)
    assert [params for params in asked if params is not asked[0]] == []
    assert len(answered) == 2
    assert [result for result in answered if result is not answer] == []


def as_given(value: Any) -> Any:
    """A model with just the fields that were set."""
    if isinstance(value, BaseModel):
        return type(value).__name__, value.model_dump_json(by_alias=True, exclude_unset=True)
    return repr(value)


@pytest.mark.parametrize("method", [*REQUESTS, *NOTIFICATIONS])
async def test_what_a_callback_gets_is_what_a_bare_one_gets_down_to_the_fields_that_were_set(method: str) -> None:
    async def given(wrap: Wrap) -> list[Any]:
        got: list[Any] = []

        def callback(result: Any) -> Any:
            async def note(*args: Any) -> Any:
                # First, callbacks that are asked get the context of the request.
                got.append([as_given(arg.meta if hasattr(arg, "session") else arg) for arg in args])
                return result

            return note

        options = {
            "sampling_callback": callback(Ears.RESULTS["sampling"]),
            "elicitation_callback": callback(Ears.RESULTS["elicitation"]),
            "list_roots_callback": callback(Ears.RESULTS["roots"]),
            "logging_callback": callback(None),
            "message_handler": callback(None),
        }
        async with speaking(wrap, **options) as (session, server):

            async def answer(frame: Frame) -> Frame:
                token = {"progressToken": frame["params"]["_meta"]["progressToken"]} if "progress" in method else {}
                await server.send(request(method) if method in REQUESTS else notification(method, **token))
                await settled()
                return RESULTS["tools/call"]

            server.answers["tools/call"] = answer
            await session.call_tool("tool", progress_callback=callback(None))
        return sorted(got, key=repr)

    expected = await given(bare)
    assert await given(around(SeenWithVendors(), through)) == expected


ODD: Mapping[str, tuple[str, Frame]] = {
    "a log message of nothing": ("notifications/message", {"level": "info", "data": None}),
    "a log message with more": ("notifications/message", {"level": "info", "data": {"a": None}, "acme": [None, 1.0]}),
    "nulls": ("notifications/message", {"level": "info", "data": 1, "logger": None, "_meta": None}),
    "an update of more than a resource": ("notifications/resources/updated", {"uri": "memo://1", "title": None}),
    "params where none are due": ("notifications/tools/list_changed", {"acme": {"a": None}}),
}
"""Notifications that do not survive being read and written again."""


@pytest.mark.parametrize("name", ODD)
async def test_a_notification_is_not_read_and_written_again(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def heard(wrap: Wrap) -> list[Any]:
        ears = Ears()
        caplog.clear()
        async with speaking(wrap, **ears.options) as (_, server):
            await server.notify(*ODD[name])
            await settled()
        return [*ears.heard, *((record.name, record.getMessage()) for record in caplog.records)]

    expected = await heard(bare)
    assert expected
    assert await heard(around(SeenWithVendors(), through)) == expected


@pytest.mark.parametrize("method", [*ASKED.values(), "notifications/message", "notifications/progress"])
async def test_a_callback_runs_in_the_task_in_which_the_chain_does(method: str) -> None:
    tasks: list[Any] = []

    async def callback(*args: Any) -> Any:
        tasks.append(anyio.get_current_task().id)
        return {value: Ears.RESULTS[name] for name, value in ASKED.items()}.get(method)

    async def note(context: Any, call_next: Any) -> Any:
        tasks.append(anyio.get_current_task().id)
        return await call_next(context)

    names = ["sampling_callback", "elicitation_callback", "list_roots_callback", "logging_callback"]
    wrap = around(only(note), only(note))
    async with speaking(wrap, **dict.fromkeys(names, callback)) as (session, server):

        async def answer(frame: Frame) -> Frame:
            token = {"progressToken": frame["params"]["_meta"]["progressToken"]} if "progress" in method else {}
            await server.send(request(method) if method in REQUESTS else notification(method, **token))
            await settled()
            return RESULTS["tools/call"]

        server.answers["tools/call"] = answer
        await session.call_tool("tool", progress_callback=callback)
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Suspensions. Of asyncio it is known in which order it runs what is ready, so that a suspension more is a turn more.

WRAPS: Mapping[str, Wrap] = {
    "three layers": around(SeenWithVendors(), through, through),
    "twice": lambda session: around(SeenWithVendors())(intercept(session, through)),
    "entered inside": lambda session: (session, intercept(session, through)),
}


async def turns_until(done: Callable[[], object]) -> int:
    """How many turns of the event loop it takes."""
    for turn in range(200):
        if done():
            return turn
        await checkpoint()
    raise TimeoutError


async def turns_of(method: str, wrap: Wrap, make: Any = ClientSession) -> list[int]:
    """After how many turns a session has answered, or its callbacks have heard of it, three times in a row."""
    ears = Ears()
    turns: list[int] = []
    async with wire() as (streams, server):
        to_enter, session = wrap(make(*streams, **ears.options))
        with anyio.fail_after(30):
            async with to_enter:
                await session.initialize()
                for number in range(3):
                    await settled()
                    frames, heard = len(server.frames), len(ears.heard)
                    if method in REQUESTS:
                        await server.send(request(method, number))
                        turns.append(await turns_until(lambda: len(server.frames) > frames))  # noqa: B023 - used at once
                    else:
                        await server.send(notification(method))
                        turns.append(await turns_until(lambda: len(ears.heard) > heard))  # noqa: B023
    return turns


HEARD = [method for method in NOTIFICATIONS if method not in {"notifications/cancelled", "notifications/acme/tell"}]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("method", [*REQUESTS, *HEARD])
async def test_the_chain_never_suspends_on_the_way_to_a_callback_and_back(method: str, wrap: str) -> None:
    assert await turns_of(method, WRAPS[wrap]) == await turns_of(method, bare)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("method", ["ping", "notifications/message"])
async def test_a_tap_adds_no_suspension(method: str) -> None:
    assert await turns_of(method, bare, Tapped) == await turns_of(method, bare)


@pytest.mark.parametrize("name", ["send_ping", "send_notification: vendor"])
async def test_a_tap_adds_no_suspension_to_what_is_sent(name: str) -> None:
    async def suspensions(make: Any) -> int:
        async with wire() as (streams, _), make(*streams) as session:
            steps = Steps(CALLS[name](session), 0, bool)
            await steps
            return steps.suspensions

    assert await suspensions(Tapped) == await suspensions(ClientSession) > 0


# ---------------------------------------------------------------------------------------------------------------------
# Failures.


@pytest.mark.parametrize("wrapping", [name for name in WRAPPINGS if name != "no layer"])
@pytest.mark.parametrize("sent", ["a failure of the transport", "a result nobody waits for", "a notification"])
async def test_a_handler_that_fails_ends_as_on_a_bare_session(
    sent: str, wrapping: str, caplog: pytest.LogCaptureFixture
) -> None:
    def kinds(error: BaseException) -> Any:
        return type(error), str(error), [kinds(part) for part in parts(error)]

    async def handle(message: Any) -> None:
        raise ValueError(f"no idea what to do with a {type(message).__name__}")

    async def ended(wrap: Any) -> Any:
        caplog.clear()
        after = left = None
        async with wire() as (streams, server):
            to_enter, session = wrap(ClientSession(*streams, message_handler=handle))
            try:
                with anyio.fail_after(30):
                    async with to_enter:
                        await session.initialize()
                        if sent == "a failure of the transport":
                            await server._write.send(OSError("torn"))
                        elif sent == "a notification":
                            await server.send(notification("notifications/resources/updated"))
                        else:
                            await server.reply(999, {})
                        await settled()
                        after = await outcome(lambda session: session.send_ping(), session)
            except BaseException as error:
                left = kinds(error)
        return after, left, [(record.name, record.levelname, record.getMessage()) for record in caplog.records]

    expected = await ended(bare)
    # It ends the session, or is logged; line 2 drops results that nobody waits for.
    assert expected[1] or expected[2] or (sent == "a result nobody waits for" and not LINE_1)
    assert await ended(WRAPPINGS[wrapping]) == expected


if not LINE_1:

    @pytest.mark.parametrize("said", [(1.0, 2.0, "half"), (1, 2, "half"), (1, None, 5)], ids=str)
    async def test_a_progress_callback_that_fails_in_process_ends_as_on_a_bare_session(
        said: tuple[Any, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        from mcp.shared.direct_dispatcher import create_direct_dispatcher_pair

        async def on_request(context: Any, method: str, params: Any) -> Frame:
            await context.progress(*said)
            return dict(RESULTS.get(method, {}))

        async def on_notify(context: Any, method: str, params: Any) -> None:
            raise NotImplementedError

        async def fail(*progress: Any) -> None:
            raise ValueError(*progress)

        async def ended(wrap: Wrap) -> Any:
            caplog.clear()
            client, served = create_direct_dispatcher_pair()
            to_enter, session = wrap(ClientSession(dispatcher=client))
            failed: Any = None
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    await tasks.start(served.run, on_request, on_notify)
                    async with to_enter:
                        failed = await outcome(
                            lambda session: session.send_request(*call_tool_request(), progress_callback=fail), session
                        )
                    tasks.cancel_scope.cancel()
            return failed, [
                (record.name, record.getMessage(), record.exc_info and repr(record.exc_info[1]))
                for record in caplog.records
            ]

        expected = await ended(bare)
        assert repr(said) in str(expected)  # logged, or on 2.0 the error of the call
        assert await ended(around(SeenWithVendors(), through)) == expected


# ---------------------------------------------------------------------------------------------------------------------
# The tap.


class Pipe:
    """Both ends of a transport: gives what it was given, as it is."""

    def __init__(self, *items: Any) -> None:
        self.items = [*items]

    async def send(self, item: Any) -> None:
        self.items.append(item)

    def send_nowait(self, item: Any) -> None:
        self.items.append(item)

    async def receive(self) -> Any:
        return self.items.pop(0)

    async def __anext__(self) -> Any:
        return self.items.pop(0)


def ping(metadata: Any = None) -> SessionMessage:
    message: Any = T.JSONRPCRequest(jsonrpc="2.0", id=1, method="ping")
    return SessionMessage(T.JSONRPCMessage(message) if LINE_1 else message, metadata)


async def test_what_passes_a_tap_are_the_very_objects() -> None:
    items = [ping(object()), ping(), ping(object())]
    read, write = WireTap(lambda direction, message: None).streams(Pipe(*items, *items[:2]), sent := Pipe())
    received = [await anext(read), await anext(read), await anext(read), await read.receive(), await read.receive()]
    assert [item for item, was in zip(received, [*items, *items], strict=False) if item is not was] == []
    await write.send(items[0])
    write.send_nowait(items[1])
    await write.send(items[2])
    assert len(sent.items) == 3
    assert [item for item, was in zip(sent.items, items, strict=True) if item is not was] == []


async def test_a_tapped_transport_is_received_from_as_an_untapped_one() -> None:
    async def received(make: Any) -> list[str]:
        ears = Ears()
        async with wire() as (streams, server), make(*streams, **ears.options) as session:
            with anyio.fail_after(30):
                await session.initialize()
                for number in range(30):
                    await server.notify("notifications/message", {"level": "info", "data": number})
                    if number % 7 == 0:
                        await server._write.send(OSError(f"torn {number}"))
                await settled()
        # Line 2 runs callbacks in tasks of their own, which trio starts in any order.
        return sorted(map(repr, ears.heard))

    expected = await received(ClientSession)
    assert len(expected) == 65
    assert await received(Tapped) == expected


async def test_frames_keep_their_order_through_a_tap() -> None:
    async def read_through(tapped: bool) -> list[int]:
        seen: list[int] = []
        async with wire() as ((read, write), server):
            tap = WireTap(lambda direction, message: seen.append(message.params["data"]))
            reading, _ = tap.streams(read, write) if tapped else (read, write)
            got: list[int] = []
            async with anyio.create_task_group() as tasks:

                async def burst() -> None:
                    for number in range(30):
                        await server.notify("notifications/message", {"level": "info", "data": number})

                tasks.start_soon(burst)
                await anyio.wait_all_tasks_blocked()
                async for item in reading:
                    message: Any = item.message.root if LINE_1 else item.message
                    got.append(message.params["data"])
                    if len(got) == 30:
                        break
        assert seen == (got if tapped else [])
        return got

    assert await read_through(True) == await read_through(False) == [*range(30)]


async def test_a_transport_that_cannot_be_written_to_fails_as_without_a_tap() -> None:
    async def failed(make: Any) -> Any:
        async with wire() as (streams, _), make(*streams) as session:
            await session.initialize()
            await streams[1].aclose()
            notified = await outcome(lambda session: session.send_roots_list_changed(), session)
            with anyio.fail_after(30):
                return notified, await outcome(lambda session: session.send_ping(), session)

    expected = await failed(ClientSession)
    assert issubclass(expected[1][0], Exception)
    assert await failed(Tapped) == expected


# ---------------------------------------------------------------------------------------------------------------------
# What is intercepted in place.


async def test_nothing_is_left_of_an_interception_in_place_whoever_holds_the_wrapper() -> None:
    seen = SeenWithVendors()
    async with wire() as (streams, server), ClientSession(*streams) as session:
        with anyio.fail_after(30):
            with intercept_all(seen) as manager:
                await session.initialize()
                await server.ask("ping", None, 1)
                held = manager.sessions
            assert len(held) == 1
            assert [name for name in vars(session) if "intercept" in name] == []
            hooks = len(seen.hooks)
            assert hooks > 0
            await server.ask("ping", None, 2)
            await server.send(notification("notifications/message"))
            await settled()
    assert len(seen.hooks) == hooks
