"""Handlers of incoming messages may use their session; what is cancelled, dropped or closed leaves nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from mcp import ClientSession

from mcp_intercept import MiddlewareManager, intercept
from tests.ears import (
    REQUESTS,
    Ears,
    Error,
    Seen,
    SeenWithVendors,
    T,
    Wrap,
    around,
    bare,
    call,
    entered_inside,
    hooking,
    notification,
    only,
    request,
    settled,
    speaking,
    through,
)
from tests.wire import LINE_1, RESULTS, Frame, never, wire

pytestmark = pytest.mark.anyio


# ---------------------------------------------------------------------------------------------------------------------
# Using the session.


async def once(session: Any) -> None:
    await session.send_ping()


async def twenty_times(session: Any) -> None:
    for _ in range(20):
        await session.send_ping()


async def in_tasks(session: Any) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(session.send_ping)


async def two_deep(session: Any, progress_callback: Any) -> None:
    """The call is answered only after a handler of the same kind has used the session, too."""
    await call(session, "two deep", progress_callback)


HANDLERS: Mapping[str, str] = {
    "sampling_callback": "sampling/createMessage",
    "elicitation_callback": "elicitation/create",
    "list_roots_callback": "roots/list",
    "logging_callback": "notifications/message",
    "message_handler": "notifications/resources/updated",
    "progress_callback": "notifications/progress",
    "on_request": "elicitation/create",
    "on_notification": "notifications/progress",
}
"""What may use the session, and what makes it do so."""


@pytest.mark.parametrize("entered", [around, entered_inside])
@pytest.mark.parametrize("use", [once, twenty_times, in_tasks, two_deep])
@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_handler_may_use_the_session(handler: str, use: Any, entered: Any) -> None:
    method = HANDLERS[handler]
    ears, done = Ears(), anyio.Event()
    to_do: list[Any] = [use, once] if use is two_deep else [use]

    async def use_session(own: Any) -> None:
        if to_do:
            await to_do.pop(0)(own, *([progress_callback] if to_do else []))
            if not to_do:
                done.set()

    def using(callback: Any) -> Any:
        async def handle(*args: Any) -> Any:
            await use_session(getattr(args[0], "session", session))
            return await callback(*args)

        return handle

    async def layer(context: Any, call_next: Any) -> Any:
        await use_session(context.session)
        return await call_next(context)

    callbacks = {**ears.options, "progress_callback": ears.progress}
    callbacks = {name: using(callback) if name == handler else callback for name, callback in callbacks.items()}
    progress_callback = callbacks.pop("progress_callback")
    middleware = hooking(**{handler: only(layer)}) if handler.startswith("on_") else Seen()
    async with speaking(entered(middleware), **callbacks) as (session, server):

        async def answer(frame: Frame) -> Frame:
            if method in REQUESTS:
                assert "result" in await server.ask(method, REQUESTS[method], f"q{frame['id']}")
            else:
                token = frame["params"]["_meta"]["progressToken"]
                await server.send(notification(method, **({"progressToken": token} if "progress" in method else {})))
            return RESULTS["tools/call"]

        server.answers["tools/call"] = answer
        await call(session, "one deep", progress_callback)
        await done.wait()
        await settled()
        # Whatever follows is received, in order.
        before = len(ears.by("logging"))
        for number in range(5):
            await server.notify("notifications/message", {"level": "info", "data": number})
            await settled()
        await session.send_ping()
        assert [params["data"] for (params,) in ears.by("logging")[before:]] == [*range(5)]


NOISE: Mapping[str, Any] = {
    "a result nobody waits for": {"jsonrpc": "2.0", "id": 999, "result": {}},
    "an error nobody waits for": {"jsonrpc": "2.0", "id": 999, "error": {"code": 1, "message": "m"}},
    "a failure of the transport": ValueError("torn"),
    "a malformed request": request("elicitation/create", "m", message=None),
    "a malformed notification": notification("notifications/message", level="whatever"),
    "a vendor's request": request("acme/ask", "v"),
    "a vendor's notification": notification("notifications/acme/tell"),
    "a notification": notification("notifications/resources/updated"),
    "a ping": request("ping", "p"),
    "a cancellation": notification("notifications/cancelled"),
}


@pytest.mark.parametrize("middlewares", [(), (SeenWithVendors(),)], ids=["no middleware", "middleware"])
@pytest.mark.parametrize("noise", NOISE)
async def test_what_comes_while_a_handler_waits_does_not_stop_the_session(noise: str, middlewares: Any) -> None:
    ears = Ears()

    async def use_session(context: Any, params: Any) -> Any:
        await context.session.send_ping()
        return Ears.RESULTS["elicitation"]

    async with speaking(around(*middlewares), **{**ears.options, "elicitation_callback": use_session}) as (
        session,
        server,
    ):

        async def answer(frame: Frame) -> Frame:
            for _ in range(3):
                if isinstance(NOISE[noise], Exception):
                    await server._write.send(NOISE[noise])
                else:
                    await server.send(NOISE[noise])
            return {}

        server.answers["ping"] = answer
        for number in range(3):
            assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"], number)
        await session.send_ping()
        await server.notify("notifications/message", {"level": "info", "data": "after"})
        await settled()
    assert ears.by("logging") == [({"level": "info", "data": "after"},)]


@pytest.mark.parametrize("middlewares", [(), (Seen(),)], ids=["no middleware", "middleware"])
@pytest.mark.parametrize("handler", ["callback", "shielded callback", "hook"])
async def test_a_server_may_cancel_what_a_handler_is_waiting_for(handler: str, middlewares: Any) -> None:
    waiting, ended = anyio.Event(), list[str]()

    async def use_session(session: Any) -> None:
        waiting.set()
        try:
            with anyio.CancelScope(shield="shielded" in handler):
                await session.send_ping()
            ended.append("went on")
        except anyio.get_cancelled_exc_class():
            ended.append("cancelled")
            raise

    async def callback(context: Any, params: Any) -> Any:
        if "callback" in handler and not ended:
            await use_session(context.session)
        return Ears.RESULTS["elicitation"]

    async def layer(context: Any, call_next: Any) -> Any:
        if handler == "hook" and not ended:
            await use_session(context.session)
        return await call_next(context)

    more = (hooking(on_elicit=layer),) if handler == "hook" else ()
    manager = MiddlewareManager([*middlewares, *more])
    async with speaking(around(manager), elicitation_callback=callback) as (session, server):
        go_on = anyio.Event()

        async def answer(frame: Frame) -> Frame:
            await go_on.wait()
            return {}

        server.answers["ping"] = answer
        await server.send(request("elicitation/create", 5))
        await waiting.wait()
        await server.wait_for("ping")
        await server.notify("notifications/cancelled", {"requestId": 5})
        await settled()
        go_on.set()
        await settled()
        assert ended == ["went on" if "shielded" in handler else "cancelled"]
        # One answer on line 1, as its servers expect, and none on line 2.
        assert [answer["error"]["message"] for answer in server.answered(5)] == ["Request cancelled"] * LINE_1
        # The session goes on.
        await session.send_ping()
        assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"], 6)


def leaf(error: BaseException) -> BaseException:
    """The one exception in a group, on Python 3.10 too."""
    while hasattr(error, "exceptions"):
        [error] = error.exceptions
    return error


@pytest.mark.parametrize("error", [None, ValueError("of the body")], ids=["left", "left by an error"])
@pytest.mark.parametrize("sent", ["elicitation/create", "notifications/message", "notifications/progress"])
@pytest.mark.parametrize("at", ["before the callback", "in the callback", "after it", "using the session"])
async def test_a_session_closes_while_a_message_is_in_the_chain(at: str, sent: str, error: Any) -> None:
    async def closed(wrap: Wrap, manager: MiddlewareManager) -> tuple[list[Frame], list[Any]]:
        waiting, log = anyio.Event(), list[Any]()
        here["wait"] = wait = _Waiting(waiting, log)

        async def callback(*args: Any) -> Any:
            if at == "in the callback":
                await wait()
            return Ears.RESULTS["elicitation"]

        async with wire() as (streams, server):
            server.answers["tools/call"] = never
            options: dict[str, Any] = {"elicitation_callback": callback, "logging_callback": callback}
            to_enter, session = wrap(ClientSession(*streams, **options))
            raised: Any = None
            with anyio.fail_after(30), manager.capture() as exchanges:
                try:
                    async with to_enter:
                        await session.initialize()
                        server.answers["ping"] = never
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(call, session, "tool", callback)
                            await server.wait_for("tools/call")
                            token = server.sent("tools/call")[0]["params"]["_meta"]["progressToken"]
                            more = {"progressToken": token} if "progress" in sent else {}
                            await server.send(request(sent) if sent in REQUESTS else notification(sent, **more))
                            await waiting.wait()
                            await settled()
                            tasks.cancel_scope.cancel()
                        if error:
                            raise error
                except BaseException as caught:
                    raised = leaf(caught)
                await settled()
            assert raised is error
            assert log == ["waits", "cancelled"]
            incoming = [response for context, response in exchanges if context.direction == "incoming"]
            # Of the call that is given up here, a bare session of line 1 does not tell the server.
            frames = [frame for frame in server.frames if frame.get("method") != "notifications/cancelled"]
            return frames, [response.outcome for response in incoming]

    here: dict[str, Any] = {}

    async def layer(context: Any, call_next: Any) -> Any:
        if at == "before the callback":
            await here["wait"]()
        result = await call_next(context)
        if at == "after it":
            await here["wait"]()
        elif at == "using the session":
            await here["wait"](context.session.send_ping)
        return result

    kind = "on_request" if sent in REQUESTS else "on_notification"
    manager = MiddlewareManager([through, hooking(**{kind: only(layer)}), Seen()])
    frames, outcomes = await closed(around(manager), manager)
    assert outcomes == ["cancelled"]
    if at == "in the callback":
        assert frames == (await closed(bare, MiddlewareManager()))[0]


class _Waiting:
    """Waits until it is cancelled, and says so."""

    def __init__(self, waiting: anyio.Event, log: list[Any]) -> None:
        self._waiting = waiting
        self._log = log

    async def __call__(self, wait: Any = anyio.sleep_forever) -> None:
        self._log.append("waits")
        self._waiting.set()
        try:
            await wait()
        except anyio.get_cancelled_exc_class():
            self._log.append("cancelled")
            raise


# ---------------------------------------------------------------------------------------------------------------------
# As long as somebody holds the wrapper.


def state(session: Any) -> dict[str, Any]:
    """What a session, and on line 2 its dispatcher, holds."""
    dispatcher = {} if LINE_1 else {f"_dispatcher.{name}": value for name, value in vars(session._dispatcher).items()}
    return {**vars(session), **dispatcher}


@pytest.mark.parametrize("when", ["before it is entered", "after it is entered", "after the handshake"])
async def test_a_dropped_wrapper_leaves_the_session_as_it_was(when: str) -> None:
    ears, seen = Ears(), Seen()

    async def listen(session: ClientSession, at: str) -> None:
        if when == at:
            kept.append((session, state(session), intercept(intercept(session, through), seen)))

    kept: list[Any] = []
    async with wire() as (streams, server):
        session = ClientSession(*streams, **ears.options)
        await listen(session, "before it is entered")
        with anyio.fail_after(30):
            async with session:
                await listen(session, "after it is entered")
                await session.initialize()
                await listen(session, "after the handshake")
                assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"], 1)
                await server.send(notification("notifications/message"))
                await settled()
                assert seen.hooks == [
                    "on_message",
                    "on_request",
                    "on_elicit",
                    "on_message",
                    "on_notification",
                    "on_log_message",
                ]
                heard = len(ears.heard)
                session, before, wrapper = kept.pop()
                seen.contexts.clear()  # which hold the wrapper
                del wrapper
                gc.collect()
                after = state(session)
                ours = [name for name, value in after.items() if "mcp_intercept" in f"{name} {type(value).__module__}"]
                assert ours == []
                assert [name for name in before if name not in after] == []
                if when == "after the handshake":
                    assert after.keys() == before.keys()
                    assert [name for name in after if after[name] is not before[name]] == []
                assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"], 2)
                await server.send(notification("notifications/message"))
                await settled()
                assert len(seen.hooks) == 6
                assert len(ears.heard) == 2 * heard
                await session.send_ping()


async def test_of_two_wrappers_the_one_that_is_left_goes_on() -> None:
    first, second = Seen(), Seen()
    async with wire() as (streams, server):
        session = ClientSession(*streams)
        with anyio.fail_after(30):
            async with session:
                wrappers = [intercept(session, first), intercept(session, second)]
                for left in (2, 1, 0):
                    await server.ask("ping", None, left)
                    assert (len(first.hooks), len(second.hooks)) == {2: (3, 3), 1: (3, 6), 0: (3, 6)}[left]
                    if left:
                        for seen in (first, second):
                            seen.contexts.clear()  # which hold the wrappers
                        del wrappers[0]
                        gc.collect()


async def test_a_wrapper_may_be_dropped_while_a_handler_uses_the_session() -> None:
    async def use_session(context: Any, params: Any) -> Any:
        await context.session.send_ping()
        return Ears.RESULTS["elicitation"]

    async with wire() as (streams, server):
        session = ClientSession(*streams, elicitation_callback=use_session)
        with anyio.fail_after(30):
            async with session:
                before = state(session)
                kept = [intercept(session, Seen())]

                async def answer(frame: Frame) -> Frame:
                    kept.clear()
                    gc.collect()
                    return {}

                server.answers["ping"] = answer
                assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"])
                gc.collect()
                assert state(session).keys() == before.keys()
                for number in range(3):
                    await server.ask("ping", None, number)
                    await session.send_ping()


@pytest.mark.parametrize("entered", ["outer", "inner", "session"])
async def test_wrappers_nest_and_callbacks_get_the_session_that_was_entered(entered: str) -> None:
    order: list[Any] = []

    def noting(name: str) -> Any:
        async def note(context: Any, call_next: Any) -> Any:
            order.append((name, context.session))
            return await call_next(context)

        return hooking(on_elicit=only(note))

    async def callback(context: Any, params: Any) -> Any:
        order.append(("callback", context.session))
        return Ears.RESULTS["elicitation"]

    options: dict[str, Any] = {"elicitation_callback": callback}
    async with wire() as (streams, server):
        session = ClientSession(*streams, **options)
        inner = intercept(session, noting("inner"))
        outer = intercept(inner, noting("outer"))
        to_enter = {"outer": outer, "inner": inner, "session": session}[entered]
        with anyio.fail_after(30):
            async with to_enter:
                assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"])
    assert order == [("outer", outer), ("inner", inner), ("callback", to_enter)]


@pytest.mark.parametrize("sent", ["elicitation/create", "notifications/progress", "notifications/message"])
async def test_handlers_that_use_the_session_may_wait_for_each_other(sent: str) -> None:
    order: list[str] = []

    async def in_turn(context: Any, call_next: Any) -> Any:
        async with lock:
            order.append("asks")
            await context.session.send_ping()
            order.append("answered")
        return await call_next(context)

    async with speaking(around(only(in_turn)), **Ears().options) as (session, server):
        lock = anyio.Lock()

        async def answer(frame: Frame) -> Frame:
            for _ in range(50):
                await checkpoint()
            return {}

        server.answers["ping"] = answer
        for number in range(4):
            await server.send(request(sent, number) if sent in REQUESTS else notification(sent))
        await server.wait_for("ping", 4)
        await session.send_ping()
        await settled()
    assert order == ["asks", "answered"] * 4


async def test_a_progress_callback_may_wait_for_a_handler_that_uses_the_session() -> None:
    """No middleware sees the progress."""
    order: list[str] = []

    async def ask(context: Any, params: Any) -> Any:
        async with lock:
            await context.session.send_ping()
            order.append("answered")
        return Ears.RESULTS["elicitation"]

    async def progress(*reported: Any) -> None:
        async with lock:
            order.append("reported")

    async with speaking(around(), elicitation_callback=ask) as (session, server):
        lock = anyio.Lock()

        async def report(frame: Frame) -> Frame:
            token = server.sent("tools/call")[0]["params"]["_meta"]["progressToken"]
            await server.send(notification("notifications/progress", progressToken=token))
            for _ in range(50):
                await checkpoint()
            return {}

        async def answer(frame: Frame) -> Frame:
            assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"])
            await settled()
            return RESULTS["tools/call"]

        server.answers.update({"ping": report, "tools/call": answer})
        await call(session, "tool", progress)
        await settled()
    assert order == ["answered", "reported"]


FAILING = {name: method for name, method in HANDLERS.items() if not name.startswith("on_")}


@pytest.mark.parametrize("middlewares", [[Seen()], []], ids=["wanted", "unwanted"])
@pytest.mark.parametrize("handler", FAILING)
async def test_a_handler_may_fail_after_it_has_used_the_session(handler: str, middlewares: list[Any]) -> None:
    method, ears, failed = FAILING[handler], Ears(), list[str]()

    async def handle(*args: Any) -> Any:
        await session.send_ping()
        failed.append(handler)
        raise ValueError("of the handler")

    callbacks = {**ears.options, "progress_callback": ears.progress, handler: handle}
    progress_callback = callbacks.pop("progress_callback")
    async with speaking(around(*middlewares), **callbacks) as (session, server):

        async def answer(frame: Frame) -> Frame:
            token = {"progressToken": frame["params"]["_meta"]["progressToken"]} if "progress" in method else {}
            for number in range(3):
                if method in REQUESTS:
                    error = (await server.ask(method, REQUESTS[method], f"q{number}"))["error"]
                    assert (error["code"], error["message"]) == (REFUSAL if LINE_1 else (0, "of the handler"))
                else:
                    await server.send(notification(method, **token))
            return RESULTS["tools/call"]

        server.answers["tools/call"] = answer
        await call(session, "tool", progress_callback)
        await settled()
        assert failed == [handler] * 3
        assert "result" in await server.ask("ping")
        await session.send_ping()


REFUSAL = (-32602, "Invalid request parameters")
"""What line 1 answers where a callback fails."""


@pytest.mark.skipif(not LINE_1, reason="line 2 runs each handler in a task of its own")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("sent", ["elicitation/create", "notifications/progress"])
async def test_once_nobody_waits_messages_are_handled_one_after_another_again(sent: str, fails: bool) -> None:
    log: list[Any] = []
    done = anyio.Event()

    async def use_session(context: Any, call_next: Any) -> Any:
        await context.session.send_ping()
        await call_next(context)
        if fails:
            raise ValueError("of the hook")

    async def handle(message: Any) -> None:
        if isinstance(message, Exception):
            await session.send_ping()
            if fails:
                raise message
        elif fails and isinstance(message.root, T.ProgressNotification):
            raise ValueError("of the handler")

    async def pause(params: Any) -> None:
        log.append(("begins", params.data))
        for _ in range(10):
            await checkpoint()
        log.append(("ends", params.data))
        if len(log) == 10:
            done.set()

    callbacks = {"logging_callback": pause, "elicitation_callback": Ears().options["elicitation_callback"]}
    middleware = hooking(on_elicit=only(use_session), on_progress=only(use_session))
    async with speaking(around(middleware), message_handler=handle, **callbacks) as (session, server):
        for number in range(3):
            await server.send(request(sent, number) if sent in REQUESTS else notification(sent))
        await settled()
        await server.send({"jsonrpc": "2.0", "id": 999, "result": {}})
        await settled()
        for number in range(5):
            await server.notify("notifications/message", {"level": "info", "data": number})
        await done.wait()
    assert log == [(what, number) for number in range(5) for what in ("begins", "ends")]


@pytest.mark.parametrize("handler", ["callback", "hook"])
async def test_a_handler_that_uses_the_session_learns_that_the_server_has_gone(handler: str) -> None:
    learnt: list[Any] = []

    async def use_session(session: Any) -> None:
        try:
            await session.send_ping()
        except Error as error:
            learnt.append(error.error.message)

    async def callback(context: Any, params: Any) -> Any:
        if handler == "callback":
            await use_session(context.session)
        return Ears.RESULTS["elicitation"]

    async def layer(context: Any, call_next: Any) -> Any:
        if handler == "hook":
            await use_session(context.session)
        return await call_next(context)

    async with speaking(around(hooking(on_elicit=layer)), elicitation_callback=callback) as (_, server):

        async def hang_up(frame: Frame) -> None:
            await server.close()

        server.answers["ping"] = hang_up
        await server.send(request("elicitation/create"))
        await settled()
        assert learnt == ["Connection closed"]


async def test_a_session_opened_in_a_handler_of_another_takes_its_own_turns() -> None:
    """Its receive loop starts in the context of the handler."""

    async def open_another(context: Any, params: Any) -> Any:
        await context.session.send_ping()
        async with speaking(around(Seen())) as (other, other_server):
            for _ in range(3):
                await other_server._write.send(ValueError("torn"))
                await other_server.ask("ping")
            await other.send_ping()
        await context.session.send_ping()
        return Ears.RESULTS["elicitation"]

    async with speaking(around(Seen()), elicitation_callback=open_another) as (session, server):
        for number in range(3):
            assert "result" in await server.ask("elicitation/create", REQUESTS["elicitation/create"], number)
        await session.send_ping()
