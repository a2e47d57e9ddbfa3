"""What spans show of content: nothing unless asked; then valid JSON, redacted, and never more than the cap."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

import mcp.types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr

from mcp_intercept import CallbackClientSession, connect
from mcp_intercept._otel.content import MIN_LENGTH, to_json
from mcp_intercept._otel.semconv import CAPTURE_CONTENT
from mcp_intercept.middleware import TracingMiddleware
from tests.telemetry import OURS, Telemetry
from tests.wire import LINE_1, Frame, WireServer, wire

T: Any = mcp.types
"""The models of the installed line; untyped, as the two lines differ."""

SECRET = "hunter2"
ARGUMENTS = "gen_ai.tool.call.arguments"
RESULT = "gen_ai.tool.call.result"
VARIABLE = "gen_ai.prompt.variable."

TEXTS = st.text(st.characters(categories=["Cs", "Cc", "Cn", "Ll", "Lo", "So", "Zs"]), max_size=40) | st.sampled_from(
    ["...", '"', "\\" * 9, "\ud800", "\x00\x1b", "𝄞" * 9]
)
JSON_LIKE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=30,
)


def strictly_read(text: str) -> Any:
    """JSON, and not what Python takes for it besides."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# ---------------------------------------------------------------------------------------------------------------------
# JSON of at most so many characters.


@settings(max_examples=150)
@given(JSON_LIKE, st.integers(MIN_LENGTH, 200))
def test_it_is_valid_json_and_never_longer_than_the_cap(value: Any, limit: int) -> None:
    text = to_json(value, limit)
    strictly_read(text)
    assert len(text) <= limit


@settings(max_examples=150)
@given(JSON_LIKE, st.integers(MIN_LENGTH, 200))
def test_what_fits_is_shown_as_it_is(value: Any, limit: int) -> None:
    whole = json.dumps(value)
    if len(whole) <= limit:
        assert to_json(value, limit) == whole


@settings(max_examples=80)
@given(JSON_LIKE)
def test_with_room_for_all_nothing_is_cut(value: Any) -> None:
    whole = json.dumps(value)
    assert to_json(value, 2 * len(whole) + 100) == whole


@settings(max_examples=80)
@given(JSON_LIKE, st.integers(MIN_LENGTH, 60))
def test_what_does_not_fit_is_marked(value: Any, limit: int) -> None:
    if len(json.dumps(value)) > limit:
        assert "..." in to_json(value, limit)


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@dataclass
class Point:
    x: Any


class Unprintable:
    def __repr__(self) -> str:
        raise AssertionError("nobody is to see this")

    __str__ = __repr__


class Failing(Mapping[str, Any]):
    """Raises when it is read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("unreadable")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("unreadable")

    def __len__(self) -> int:
        raise RuntimeError("unreadable")


def endless() -> Any:
    """A list that holds itself, wherever one looks."""
    found: list[Any] = []
    found.extend([found, {"again": found}, found])
    return found


def deep(levels: int) -> Any:
    found: Any = "bottom"
    for _ in range(levels):
        found = {"a": [found]}
    return found


class Aliased(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    is_error: bool = Field(default=False, alias="isError")
    note: str | None = None


ODD: dict[str, Any] = {
    "a cycle": endless(),
    "very deep": deep(5000),
    "a huge integer": 10**5000,
    "a huge negative integer": -(10**5000),
    "a long integer": 10**3000,
    "no number": math.nan,
    "infinity, inside": {"a": [math.inf, -math.inf]},
    "a lone surrogate": {"a\udfff": "\ud800"},
    "bytes": {"a": b"\xff\x00", "b": bytearray(b"x")},
    "an object": object(),
    "an object that does not print": {"a": Unprintable()},
    "a class": int,
    "a set": {1},
    "a tuple": (1, (2,)),
    "no strings for keys": {1: 1, None: 2, 1.5: 3},
    "a tuple for a key": {(1, 2): 3},
    "a huge integer for a key": {10**5000: 1},
    "a dataclass": Point(1),
    "a dataclass with bytes": Point(b"\xff"),
    "a dataclass with a lone surrogate": Point("\ud800"),
    "a dataclass that holds itself": None,
    "enums": [Colour.RED, Level.LOW],
    "a model": Aliased(isError=True),
    "a model made of nothing": Aliased.model_construct(),
    "a model that lacks a field": None,
    "a model of the SDK": T.CallToolResult(content=[T.TextContent(type="text", text="x" * 1000)]),
    "a generator": (number for number in range(3)),
    "a mapping that cannot be read": Failing(),
}
_itself = Point(None)
_itself.x = _itself
ODD["a dataclass that holds itself"] = _itself
_lacking: Any = Aliased()
vars(_lacking).pop("note")
ODD["a model that lacks a field"] = _lacking


@pytest.mark.parametrize("limit", [MIN_LENGTH, 40, 8192])
@pytest.mark.parametrize("odd", [name for name in ODD if name != "a mapping that cannot be read"])
def test_whatever_it_is_becomes_valid_json_within_the_cap(odd: str, limit: int) -> None:
    text = to_json(ODD[odd], limit)
    strictly_read(text)
    assert len(text) <= limit


def test_models_are_shown_as_on_the_wire() -> None:
    class Hidden(BaseModel):
        shown: int = 1
        hidden: str = Field(default=SECRET, exclude=True)

    class Items(RootModel[list[int]]):
        pass

    assert strictly_read(to_json(Aliased(isError=True, x=[1]), 100)) == {"isError": True, "x": [1]}  # type: ignore[call-arg]
    assert SECRET not in to_json({"password": SecretStr(SECRET)}, 100)
    assert strictly_read(to_json(Hidden(), 100)) == {"shown": 1}
    assert strictly_read(to_json(Items([1, 2]), 100)) == [1, 2]


class Counted(str):
    """A text that counts how much of it is read."""

    reads: list[int]

    def __new__(cls, text: str) -> Counted:
        made = super().__new__(cls, text)
        made.reads = []
        return made

    def __getitem__(self, index: Any) -> str:
        part = super().__getitem__(index)
        self.reads.append(len(part))
        return part

    def __str__(self) -> str:
        raise AssertionError("it is copied")

    def __iter__(self) -> Any:
        raise AssertionError("it is read")

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        raise AssertionError("it is encoded")


class Endless(Mapping[str, Any]):
    """A hundred million members, of which is counted how many are looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def __getitem__(self, key: str) -> Any:
        return "x" * 100

    def __iter__(self) -> Iterator[str]:
        for number in range(100_000_000):
            self.looks += 1
            yield f"name-{number}"

    def __len__(self) -> int:
        return 100_000_000


def test_of_a_huge_text_only_what_fits_is_read() -> None:
    text = Counted("x" * 100_000_000)
    shown = to_json({"a": text}, 1000)
    assert 900 < len(shown) <= 1000
    assert max(text.reads) <= 1000
    assert len(text.reads) < 20


def test_of_a_huge_mapping_only_what_fits_is_looked_at() -> None:
    members = Endless()
    shown = to_json({"a": [members]}, 1000)
    assert len(shown) <= 1000
    assert members.looks < 20


def test_of_a_huge_key_only_what_fits_is_shown() -> None:
    assert len(to_json({"k" * 1_000_000: 1}, 100)) <= 100


# ---------------------------------------------------------------------------------------------------------------------
# What is on spans.


def middleware_of(telemetry: Telemetry, **options: Any) -> TracingMiddleware:
    return TracingMiddleware(
        tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider, **options
    )


@asynccontextmanager
async def traced(
    telemetry: Telemetry, *outer: Any, **options: Any
) -> AsyncGenerator[tuple[CallbackClientSession, WireServer], None]:
    async with (
        wire() as (streams, server),
        connect(streams, *outer, middleware_of(telemetry, **options)) as session,
    ):
        yield session, server


def attributes_of(telemetry: Telemetry, method: str = "tools/call") -> dict[str, Any]:
    """Those of the last span of a method."""
    spans = [span for span in telemetry.spans if (span.attributes or {}).get("mcp.method.name") == method]
    return dict(spans[-1].attributes or {})


def content_of(telemetry: Telemetry) -> dict[str, Any]:
    """Every attribute of any span that shows content."""
    names = (ARGUMENTS, RESULT, VARIABLE)
    return {
        name: value
        for span in telemetry.spans
        for name, value in (span.attributes or {}).items()
        if name.startswith(names)
    }


async def say(session: Any, arguments: Any = None, name: str = "tool") -> Any:
    """Call a tool, without the SDK asking for its schema."""
    message = T.CallToolRequest(method="tools/call", params=T.CallToolRequestParams(name=name, arguments=arguments))
    return await session.send_request(T.ClientRequest(message) if LINE_1 else message, T.CallToolResult)


async def converse(session: Any) -> None:
    await say(session, {"password": SECRET})
    await session.get_prompt("greet", {"name": SECRET})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "is_shown"),
    [
        (None, False),
        ("", False),
        ("false", False),
        ("0", False),
        ("no_content", False),
        ("event_only", False),
        ("whatever", False),
        ("true", True),
        ("TRUE", True),
        (" True ", True),
        ("span_only", True),
        ("SPAN_AND_EVENT", True),
    ],
)
async def test_content_is_shown_only_if_the_environment_says_so(
    said: str | None, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CAPTURE_CONTENT, raising=False)
    if said is not None:
        monkeypatch.setenv(CAPTURE_CONTENT, said)
    telemetry = Telemetry()
    async with traced(telemetry) as (session, _):
        await converse(session)
    expected = {
        ARGUMENTS: '{"password": "hunter2"}',
        RESULT: None,
        f"{VARIABLE}name": SECRET,
    }
    shown = content_of(telemetry)
    assert set(shown) == (set(expected) if is_shown else set())
    if is_shown:
        assert strictly_read(shown[RESULT])["content"] == [{"type": "text", "text": "done"}]
        assert {**shown, RESULT: None} == expected


@pytest.mark.anyio
async def test_an_argument_overrules_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAPTURE_CONTENT, "true")
    telemetry = Telemetry()
    async with traced(telemetry, capture_content=False) as (session, _):
        await converse(session)
    assert content_of(telemetry) == {}
    monkeypatch.setenv(CAPTURE_CONTENT, "false")
    async with traced(telemetry, capture_content=True) as (session, _):
        await converse(session)
    assert set(content_of(telemetry)) == {ARGUMENTS, RESULT, f"{VARIABLE}name"}


@pytest.mark.anyio
async def test_only_the_tools_and_prompts_that_are_named_show_content() -> None:
    telemetry = Telemetry()
    async with traced(telemetry, capture_content=["open", "greet"]) as (session, _):
        await say(session, {"a": SECRET}, "closed")
        await say(session, {"a": 1}, "open")
        await session.get_prompt("greet", {"name": "you"})
        await session.get_prompt("other", {"name": SECRET})
        await session.read_resource("memo://1")  # type: ignore[arg-type,unused-ignore]
    assert content_of(telemetry)[ARGUMENTS] == '{"a": 1}'
    assert SECRET not in repr(content_of(telemetry))
    assert content_of(telemetry)[f"{VARIABLE}name"] == "you"


@pytest.mark.anyio
async def test_the_text_of_a_tool_error_is_shown_only_with_content() -> None:
    async def fail(frame: Frame) -> Frame:
        return {
            "content": [{"type": "text", "text": f"no {SECRET}"}, {"type": "text", "text": "luck"}],
            "isError": True,
        }

    shown: list[Any] = []
    for capture in (False, True, ["tool"], ["another"]):
        telemetry = Telemetry()
        async with traced(telemetry, capture_content=capture) as (session, server):
            server.answers["tools/call"] = fail
            await say(session)
        span = telemetry.spans[-1]
        assert (span.attributes or {})["error.type"] == "tool_error"
        shown.append(span.status.description)
    assert shown == [None, f"no {SECRET} luck", f"no {SECRET} luck", None]


@pytest.mark.anyio
async def test_all_that_is_shown_keeps_to_the_cap() -> None:
    async def answer(frame: Frame) -> Frame:
        is_error = frame["params"]["name"] == "fail"
        return {"content": [{"type": "text", "text": "ü" * 10_000}], "isError": is_error}

    telemetry = Telemetry()
    async with traced(telemetry, capture_content=True, max_content_length=100) as (session, server):
        server.answers["tools/call"] = answer
        await say(session, {}, "fail")
        await say(session, {"text": "x" * 10_000, "more": ["y"] * 1000})
        await session.get_prompt("greet", {"name": "z" * 10_000})
    shown = content_of(telemetry)
    assert 50 < len(shown[RESULT]) <= 100
    assert 50 < len(shown[ARGUMENTS]) <= 100
    strictly_read(shown[ARGUMENTS])
    strictly_read(shown[RESULT])
    assert len(shown[f"{VARIABLE}name"]) <= 100
    assert all(len(span.status.description or "") <= 100 for span in telemetry.spans)


@pytest.mark.anyio
async def test_a_huge_payload_is_not_read_while_content_is_off() -> None:
    telemetry = Telemetry()
    text = Counted("x" * 1_000_000)
    nested = Endless()
    arguments = {"text": text, "nested": [{"deep": nested}]}

    async def short_cut(context: Any, call_next: Any) -> Any:
        return T.CallToolResult(content=[T.TextContent(type="text", text=Counted("y"))])

    async with wire() as (streams, _):
        async with connect(streams, middleware_of(telemetry), only_calls(short_cut)) as session:
            params = T.CallToolRequestParams.model_construct(name="tool", arguments=arguments)
            message = T.CallToolRequest.model_construct(method="tools/call", params=params)
            await session.send_request(
                T.ClientRequest.model_construct(message) if LINE_1 else message, T.CallToolResult
            )
    assert attributes_of(telemetry)["mcp_intercept.short_cut"] is True
    assert text.reads == []
    assert nested.looks == 0


@pytest.mark.anyio
async def test_of_a_huge_payload_no_more_is_read_than_is_shown() -> None:
    telemetry = Telemetry()
    text = Counted("x" * 1_000_000)
    nested = Endless()

    async def short_cut(context: Any, call_next: Any) -> Any:
        return T.CallToolResult(content=[])

    async with wire() as (streams, _):
        tracing = middleware_of(telemetry, capture_content=True, max_content_length=1000)
        async with connect(streams, tracing, only_calls(short_cut)) as session:
            params = T.CallToolRequestParams.model_construct(
                name="tool", arguments={"nested": [{"deep": nested}], "text": text}
            )
            message = T.CallToolRequest.model_construct(method="tools/call", params=params)
            await session.send_request(
                T.ClientRequest.model_construct(message) if LINE_1 else message, T.CallToolResult
            )
    assert len(attributes_of(telemetry)[ARGUMENTS]) <= 1000
    assert max(text.reads, default=0) <= 1000
    assert nested.looks < 20


def only_calls(respond: Any) -> Any:
    """`respond` to calls of tools; everything else passes."""

    async def middleware(context: Any, call_next: Any) -> Any:
        return await (respond(context, call_next) if context.method == "tools/call" else call_next(context))

    return middleware


# ---------------------------------------------------------------------------------------------------------------------
# Redaction.


@pytest.mark.anyio
async def test_a_redactor_decides_what_is_shown() -> None:
    seen: list[tuple[str, Any]] = []

    def redact(attribute: str, value: Any) -> Any:
        seen.append((attribute, deepcopy(value)))
        if attribute == ARGUMENTS:
            return dict.fromkeys(value, "***")
        return None if attribute == RESULT else "[name]"

    telemetry = Telemetry()
    async with traced(telemetry, capture_content=True, redact=redact) as (session, _):
        await converse(session)
    assert content_of(telemetry) == {ARGUMENTS: '{"password": "***"}', f"{VARIABLE}name": "[name]"}
    assert [attribute for attribute, _ in seen] == [ARGUMENTS, RESULT, f"{VARIABLE}name"]
    # As on the wire, whatever the SDK has it in.
    result = seen[1][1]
    assert isinstance(result, dict)
    assert result["content"] == [{"type": "text", "text": "done"}]


@pytest.mark.anyio
async def test_a_redactor_is_not_asked_while_content_is_off() -> None:
    seen: list[Any] = []
    telemetry = Telemetry()
    async with traced(telemetry, capture_content=False, redact=lambda *shown: seen.append(shown)) as (session, _):
        await converse(session)
    assert seen == []


@pytest.mark.anyio
async def test_the_text_of_a_tool_error_is_redacted() -> None:
    async def fail(frame: Frame) -> Frame:
        return {"content": [{"type": "text", "text": SECRET}], "isError": True}

    def redact(attribute: str, value: Any) -> Any:
        return json.loads(json.dumps(value).replace(SECRET, "***")) if attribute == RESULT else value

    shown: list[Any] = []
    redactors: list[Any] = [redact, lambda attribute, value: None]
    for redactor in redactors:
        telemetry = Telemetry()
        async with traced(telemetry, capture_content=True, redact=redactor) as (session, server):
            server.answers["tools/call"] = fail
            await say(session)
        shown.append(telemetry.spans[-1].status.description)
    assert shown == ["***", None]


@pytest.mark.anyio
async def test_a_redactor_that_raises_shows_nothing_and_is_logged_once_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def redact(attribute: str, value: Any) -> Any:
        raise ValueError(f"cannot redact {value}")

    async def fail(frame: Frame) -> Frame:
        return {"content": [{"type": "text", "text": SECRET}], "isError": True}

    telemetry = Telemetry()
    async with traced(telemetry, capture_content=True, redact=redact) as (session, server):
        await converse(session)
        server.answers["tools/call"] = fail
        result = await say(session, {"password": SECRET})
    assert result.content[0].text == SECRET
    assert content_of(telemetry) == {}
    assert attributes_of(telemetry)["error.type"] == "tool_error"
    assert telemetry.spans[-1].status.status_code.name == "ERROR"
    assert SECRET not in repr([span.to_json() for span in telemetry.spans])
    records = [record for record in caplog.records if record.name == "mcp_intercept"]
    assert [record.levelno for record in records] == [logging.ERROR]
    assert SECRET not in caplog.text


@pytest.mark.anyio
async def test_a_redactor_that_changes_in_place_changes_only_what_is_shown() -> None:
    """Neither what the caller holds, nor what a retry sends again."""

    def redact(attribute: str, value: Any) -> Any:
        if attribute == ARGUMENTS:
            value["password"] = "***"
            value["deep"][0]["token"] = "***"
        return value

    async def twice(context: Any, call_next: Any) -> Any:
        await call_next(context)
        return await call_next(context)

    telemetry = Telemetry()
    own: dict[str, Any] = {"password": SECRET, "deep": [{"token": SECRET}]}
    before = deepcopy(own)
    async with traced(telemetry, only_calls(twice), capture_content=True, redact=redact) as (session, server):
        await say(session, own)
        frames = server.sent("tools/call")
    assert json.loads(content_of(telemetry)[ARGUMENTS]) == {"password": "***", "deep": [{"token": "***"}]}
    assert [frame["params"]["arguments"] for frame in frames] == [before, before]
    assert own == before


@pytest.mark.anyio
@pytest.mark.parametrize("made", [{"content": 5}, 5, "text", ["x"], {}, object(), {"content": [None, 1, {"text": 2}]}])
async def test_whatever_a_redactor_makes_of_it_a_failed_call_is_shown_as_failed(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(frame: Frame) -> Frame:
        return {"content": [{"type": "text", "text": SECRET}], "isError": True}

    telemetry = Telemetry()
    async with traced(telemetry, capture_content=True, redact=lambda attribute, value: made) as (session, server):
        server.answers["tools/call"] = fail
        await say(session)
    assert telemetry.spans[-1].status.status_code.name == "ERROR"
    assert telemetry.spans[-1].instrumentation_scope is not None
    assert telemetry.spans[-1].instrumentation_scope.name == OURS
    assert SECRET not in caplog.text


@pytest.mark.anyio
async def test_content_that_cannot_be_shown_leaves_the_rest_of_the_span(caplog: pytest.LogCaptureFixture) -> None:
    """However odd a middleware's arguments are: the call failed, and the span says so."""

    async def refuse(context: Any, call_next: Any) -> Any:
        context.params = T.CallToolRequestParams.model_construct(name="tool", arguments=Failing())
        raise RuntimeError(SECRET)

    telemetry = Telemetry()
    async with wire() as (streams, _):
        async with connect(streams, middleware_of(telemetry, capture_content=True), only_calls(refuse)) as session:
            with pytest.raises(RuntimeError, match=SECRET):
                await say(session)
    span = telemetry.spans[-1]
    assert (span.attributes or {})["error.type"] == "RuntimeError"
    assert span.status.status_code.name == "ERROR"
    assert SECRET not in caplog.text
