"""What protocol version 2026-07-28 has instead of requests of the server: rounds of questions, and subscriptions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import anyio
import pytest
from mcp import ClientSession

from mcp_intercept import Middleware, intercept
from tests.ears import REQUESTS, SCHEMA, Ears, Error, Seen, T, Wrap, around, bare, hooking, rpc_error, settled, through
from tests.wire import Frame, wire

pytestmark = pytest.mark.anyio

subscriptions: Any = pytest.importorskip("mcp.client.subscriptions", reason="line 1 does not speak that version")
server_subscriptions: Any = import_module("mcp.server.subscriptions")
LowLevelServer: Any = import_module("mcp.server.lowlevel").Server
Client: Any = import_module("mcp").Client

ASKED = {
    "who": T.ElicitRequest(params=T.ElicitRequestFormParams(message="Who?", requested_schema=SCHEMA)),
    "what": T.CreateMessageRequest(
        params=T.CreateMessageRequestParams.model_validate(REQUESTS["sampling/createMessage"])
    ),
    "where": T.ListRootsRequest(),
}
QUESTIONS = {"elicitation/create", "sampling/createMessage", "roots/list"}


def asking(rounds: int, states: Callable[[str, int], str | None]) -> Any:
    """A server that asks everything before it answers a call, in so many rounds."""

    async def call_tool(context: Any, params: Any) -> Any:
        answers = params.input_responses or {}
        at = int((params.request_state or "0").split(":")[0])
        if at == rounds:
            who, what, where = (answers[name] for name in ASKED)
            text = f"{params.name} {who.action} {what.content.text} {where.roots[0].uri}"
            return T.CallToolResult(content=[T.TextContent(type="text", text=text)])
        state = states(params.name, at + 1)
        return T.InputRequiredResult(input_requests=dict(ASKED), request_state=state)

    async def list_tools(context: Any, params: Any) -> Any:
        return T.ListToolsResult(tools=[])

    return LowLevelServer("asking", on_call_tool=call_tool, on_list_tools=list_tools)


class Rounds(Middleware):
    """Notes each call, and each question, with what it is related to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.questions: list[Any] = []

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        self.calls.append(context)
        return await call_next(context)

    async def on_request(self, context: Any, call_next: Any) -> Any:
        if context.direction == "incoming":
            self.questions.append(context)
        return await call_next(context)

    def check(self, count: int, rounds: int) -> None:
        """The rounds of each call are tied together, and each question to the round that led to it."""
        firsts = [context for context in self.calls if context.round == 1]
        assert len(firsts) == count
        assert all(context.related is None for context in firsts)
        for first in firsts:
            own = [first, *(context for context in self.calls if context.related is first)]
            assert [context.round for context in own] == [*range(1, rounds + 2)]
            assert {context.params.meta.get("n") for context in own} == {first.params.meta.get("n")}
            for each in own[:-1]:
                asked = [context.method for context in self.questions if context.related is each]
                assert {*asked} == QUESTIONS
                assert len(asked) == 3
        assert len(self.questions) == count * rounds * 3


def same_state(name: str, at: int) -> str:
    return f"{at}:"


def own_state(name: str, at: int) -> str:
    return f"{at}:{name}"


@asynccontextmanager
async def client_of(server: Any, *middlewares: Any, **options: Any) -> AsyncGenerator[Any, None]:
    with anyio.fail_after(30):
        async with intercept(Client(server, **options), *middlewares) as client:
            yield client


def answering(ears: Ears) -> dict[str, Any]:
    return {name: ears.options[name] for name in ("sampling_callback", "elicitation_callback", "list_roots_callback")}


async def test_the_rounds_of_a_call_and_their_questions_are_tied_together() -> None:
    rounds, ears = Rounds(), Ears()
    async with client_of(asking(2, own_state), rounds, **answering(ears)) as client:
        result = await client.call_tool("tool", {}, meta={"n": 0})
        assert result.content[0].text == "tool accept hi file:///root"
    rounds.check(1, 2)
    assert all(context.jsonrpc_id is None for context in rounds.questions)
    assert sorted(name for name, *_ in ears.heard) == sorted(["elicitation", "sampling", "roots"] * 2)


@pytest.mark.parametrize("states", [own_state, same_state])
@pytest.mark.parametrize("is_same_tool", [False, True], ids=["tools of their own", "one tool"])
async def test_the_rounds_of_concurrent_calls_do_not_mix(states: Any, is_same_tool: bool) -> None:
    """Even of calls that the wire cannot tell apart, and that go on in another order than they came."""
    outer, inner = Rounds(), Rounds()
    turns: list[anyio.Event] = []

    async def in_disorder(context: Any, params: Any) -> Any:
        """Wait until all calls have asked, then answer neither the first nor the last before the others."""
        before = len(turns) // 4 * 4
        turns.append(mine := anyio.Event())
        if len(turns) == before + 4:
            turns[before + 1].set()
        await mine.wait()
        await settled()
        following = {1: 3, 3: 0, 0: 2}.get(turns.index(mine) - before)
        if following is not None:
            turns[before + following].set()
        return Ears.RESULTS["elicitation"]

    async def ask(number: int) -> None:
        await client.call_tool("tool" if is_same_tool else f"tool-{number}", {}, meta={"n": number})

    with anyio.fail_after(30):
        callbacks = {**answering(Ears()), "elicitation_callback": in_disorder}
        plain = Client(asking(2, states), **callbacks)
        async with intercept(intercept(plain, inner), outer) as client:
            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(ask, number)
    outer.check(4, 2)
    inner.check(4, 2)


async def test_a_call_that_was_given_up_is_not_taken_for_the_next_one() -> None:
    rounds, ears = Rounds(), Ears()

    async def give_up(context: Any, call_next: Any) -> Any:
        if len(rounds.calls) == 1:
            raise rpc_error(-32042, "not today")
        return await call_next(context)

    async with client_of(asking(1, same_state), rounds, hooking(on_elicit=give_up), **answering(ears)) as client:
        with pytest.raises(Error, match="not today"):
            await client.call_tool("tool", {})
        await client.call_tool("tool", {})
    assert [context.round for context in rounds.calls] == [1, 1, 2]
    assert [rounds.calls.index(context.related) for context in rounds.calls if context.related] == [1]


@pytest.mark.parametrize("how", ["answered", "refused", "changed"])
async def test_middleware_may_deal_with_the_questions_of_a_call(how: str) -> None:
    ears = Ears()

    async def deal(context: Any, call_next: Any) -> Any:
        if how == "refused":
            return T.ErrorData(code=-32042, message="not today")
        if how == "answered":
            return {"action": "decline"}
        context.params.message = "changed"
        return (await call_next(context)).model_copy(update={"action": "cancel"})

    async with client_of(asking(1, own_state), hooking(on_elicit=deal), **answering(ears)) as client:
        if how == "refused":
            with pytest.raises(Error, match="not today"):
                await client.call_tool("tool", {})
        else:
            text = (await client.call_tool("tool", {})).content[0].text
            assert text.split()[1] == {"answered": "decline", "changed": "cancel"}[how]
    asked = [params["message"] for _, _, params in ears.by("elicitation")]
    assert asked == (["changed"] if how == "changed" else [])


MODERN = {"resultType": "complete"}
STAMP = "io.modelcontextprotocol/subscriptionId"


@asynccontextmanager
async def modern(wrap: Wrap, **options: Any) -> AsyncGenerator[tuple[Any, Any], None]:
    async with wire() as (streams, server):
        to_enter, session = wrap(ClientSession(*streams, **options))
        with anyio.fail_after(30):
            async with to_enter:
                await session.discover()
                yield session, server


@pytest.mark.parametrize("ending", ["result", "cancelled", "error"])
async def test_a_subscription_and_what_it_brings_pass_the_chain_and_stay_as_they_are(ending: str) -> None:
    async def subscribed(wrap: Wrap) -> list[Any]:
        log: list[Any] = []
        ears = Ears()
        async with modern(wrap, **ears.options) as (session, server):

            async def answer(frame: Frame) -> Frame | None:
                stamp = {"_meta": {STAMP: frame["id"]}}
                honored = {"toolsListChanged": True, "resourceSubscriptions": ["memo://1"]}
                await server.notify("notifications/subscriptions/acknowledged", {"notifications": honored, **stamp})
                for number in range(5):
                    await server.notify("notifications/resources/updated", {"uri": f"memo://{number}", **stamp})
                    await server.notify("notifications/tools/list_changed", stamp)
                await server.notify("notifications/prompts/list_changed", stamp)
                stray = {"notifications": honored, "_meta": {STAMP: "nobody's"}}
                await server.notify("notifications/subscriptions/acknowledged", stray)
                if ending == "cancelled":
                    await server.notify("notifications/cancelled", {"requestId": frame["id"]})
                elif ending == "error":
                    await server.refuse(frame["id"], -32042, "not today")
                return None if ending == "cancelled" or ending == "error" else {**MODERN, **stamp}

            server.answers["subscriptions/listen"] = answer
            try:
                async with subscriptions.listen(
                    session, tools_list_changed=True, resource_subscriptions=["memo://1"]
                ) as subscription:
                    log.append(subscription.honored.model_dump())
                    await settled()
                    async for event in subscription:
                        log.append(repr(event))  # noqa: PERF401 - what came before the stream was lost counts, too
            except subscriptions.SubscriptionLost as lost:
                log.append(repr(lost.__cause__))
            await settled()
        heard = [message for (message,) in ears.by("handler")]
        return [log, sorted(message["method"] for message in heard)]

    seen = Seen()
    expected = await subscribed(bare)
    assert len(expected[0]) == (7 if ending == "result" else 8)
    assert await subscribed(around(through, seen, Seen())) == expected
    own = [name for name in seen.hooks if name not in {"on_message", "on_notification"}]
    assert {name: own.count(name) for name in own} == {
        "on_subscription_acknowledged": 2,
        "on_resource_updated": 5,
        "on_tools_list_changed": 5,
        "on_prompts_list_changed": 1,
        **({"on_cancelled": 1} if ending == "cancelled" else {}),
    }


async def test_a_subscription_in_process_passes_the_chain() -> None:
    bus = server_subscriptions.InMemorySubscriptionBus()
    server = LowLevelServer("s", on_subscriptions_listen=server_subscriptions.ListenHandler(bus))
    seen = Seen()
    async with client_of(server, seen) as client:
        async with client.listen(tools_list_changed=True) as subscription:
            await bus.publish(subscriptions.ToolsListChanged())
            assert isinstance(await anext(aiter(subscription)), subscriptions.ToolsListChanged)
            await settled()
    own = [name for name in seen.hooks if name not in {"on_message", "on_notification"}]
    assert own == ["on_subscription_acknowledged", "on_tools_list_changed"]


@pytest.mark.parametrize("method", [method for method in REQUESTS if method != "acme/ask"])
async def test_what_a_server_may_no_longer_ask_is_refused_as_by_a_bare_session(method: str) -> None:
    async def refused(wrap: Wrap) -> Any:
        async with modern(wrap, **Ears().options) as (_, server):
            return await server.ask(method, REQUESTS[method])

    seen = Seen()
    expected = await refused(bare)
    assert "error" in expected
    assert await refused(around(seen, through)) == expected
    assert seen.hooks[:2] == ["on_message", "on_request"]
