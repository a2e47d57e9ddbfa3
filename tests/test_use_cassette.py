"""`use_cassette()` as a user writes it: its options, modes, names, rules, reports, and how it ends."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.shared._httpx_utils import create_mcp_http_client

from mcp_intercept import Cassette, InterceptError, connect, intercept, use_cassette
from mcp_intercept._handed import handed_to
from mcp_intercept.errors import (
    CassetteDriftError,
    CassetteError,
    CassetteFormatError,
    CassetteLockedError,
    CassetteMissError,
    CassetteWarning,
    SessionStateError,
    UnsupportedTargetError,
)
from mcp_intercept.recording import MISS_CODE, Redaction
from mcp_intercept.testing import ScriptedServer
from tests.server import STDIO, http_server
from tests.wire import LINE_1

# Many a cassette here is only opened.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:nothing has passed")]

HEADER, END = '{"format":"mcp-cassette","version":1}', '{"end":true}'


def travel() -> ScriptedServer:
    server = ScriptedServer("travel", strict=False)
    server.on_tool("forecast", lambda arguments: f"{arguments.get('city')}: snow")
    server.on_tool("book", lambda arguments: f"booked {arguments}")
    return server


async def call(target: Any, *calls: tuple[str, dict[str, Any]], name: str | None = "travel") -> list[str]:
    """What comes of calls, in a session of their own."""
    said: list[str] = []
    async with connect(target, connection_id=name) as session:
        for tool, arguments in calls:
            said.append(await answer(session, tool, arguments))
    return said


async def answer(session: Any, tool: str, arguments: dict[str, Any]) -> str:
    try:
        text: str = (await session.call_tool(tool, arguments)).content[0].text
    except Exception as error:
        text = f"{type(error).__name__} {str(error).partition(chr(10))[0]}"
    return text


async def record_up_to(error: BaseException, path: Path, *calls: tuple[str, dict[str, Any]], **options: Any) -> None:
    """A block that makes calls, and is left with an error."""
    with use_cassette(path, **options):
        await call(travel().transport(), *calls)
        raise error


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


OSLO = ("forecast", {"city": "Oslo"})
BERGEN = ("forecast", {"city": "Bergen"})
NOBODY = ["nobody-is-there"]


async def record(path: Path, *calls: tuple[str, dict[str, Any]], **options: Any) -> None:
    with use_cassette(path, mode="rewrite", **options):
        await call(travel().transport(), *calls)


# What is given.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "all"}, "the mode that others call 'all' is 'rewrite' here"),
        ({"mode": "never"}, "mode must be 'none' or 'once' or"),
        ({"ignore": ["place/lat"]}, "'place/lat' is neither a name nor a JSON pointer"),
        ({"ignore": {1: ["date"]}}, "goes by the names of tools"),
        ({"mode": ["once"]}, r"not \['once'\]"),
        ({"everywhere": "yes"}, "everywhere must be True or False, not 'yes'"),
        ({"timing": 1}, "timing must be True or False, not 1"),
        ({"save_on_failure": None}, "save_on_failure must be"),
        ({"unused": "raise"}, "unused must be 'ignore' or 'warn' or 'fail'"),
        ({"order": "random"}, "order must be one of 'any', 'tool', 'strict'"),
        ({"normalize": "lower"}, "normalize must be a function"),
        ({"ignore": "date"}, "ignore must be a list of names or JSON pointers, or '\\*', not 'date'"),
        ({"ignore": 5}, "ignore must be a list"),
        ({"ignore": [""]}, "ignore must be made of names and JSON pointers"),
        ({"ignore": {"forecast": 5}}, r"ignore\['forecast'\] must be a list"),
        ({"ignore_results": {"forecast": [5]}}, "ignore_results must be made of"),
        ({"redaction": "password"}, "redaction must be a Redaction, or None for none, not str"),
        ({"patience": "long"}, "patience must be seconds, not an object of type str"),
        ({"servers": ["weather"]}, "servers must be names with parts of command lines or URLs, not"),
        ({"servers": {"weather": ""}}, "servers must be names"),
        ({"patience": -1}, "patience must be seconds"),
        ({"patience": float("nan")}, "patience must be seconds"),
    ],
)
def test_an_option_that_is_none_is_refused_before_anything_happens(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InterceptError, match=said):
        use_cassette(tmp_path / "x.mcp.jsonl", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [None, 5, "", "a\0b", "folder/", "x" * 300])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(InterceptError, match="path|name of the file"):
        use_cassette(path)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterceptError, match="is a folder; name a file in it"):
        use_cassette(tmp_path)


@pytest.mark.parametrize(("ci", "mode"), [("true", "none"), ("1", "none"), ("false", "once"), ("", "once")])
def test_the_mode_is_by_default_what_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, mode: str
) -> None:
    monkeypatch.setenv("CI", ci)
    with use_cassette(tmp_path / "x.mcp.jsonl") as cassette:
        assert cassette.mode == mode


# How it is opened.


async def test_it_decorates_functions_of_both_kinds(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"

    @use_cassette(path, mode="once")
    async def answer(target: Any) -> list[str]:
        return await call(target, OSLO)

    assert await answer(travel().transport()) == await answer(NOBODY) == ["Oslo: snow"]

    @use_cassette(path, mode="off")
    def answer_twice(times: int) -> str:
        return "said" * times

    assert answer_twice(2) == "saidsaid"
    for none in (5, Cassette):
        with pytest.raises(InterceptError, match="decorates functions, not"):
            use_cassette(path)(none)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InterceptError, match=r"is a generator; write `with use_cassette"):

        @use_cassette(path)
        def answers() -> Any:
            yield 1


async def test_it_opens_with_async_with_as_well(tmp_path: Path) -> None:
    async with use_cassette(tmp_path / "x.mcp.jsonl", mode="once") as cassette:
        assert await call(travel().transport(), OSLO) == ["Oslo: snow"]
        assert cassette.is_recording
    assert cassette.path.is_file()


def test_one_is_opened_once_at_a_time_and_is_no_use_when_it_is_not(tmp_path: Path) -> None:
    scope = use_cassette(tmp_path / "x.mcp.jsonl", mode="none")
    with scope as cassette, pytest.raises(SessionStateError, match="is open already"):
        scope.__enter__()
    with pytest.raises(SessionStateError, match="is not open; use it inside"):
        cassette.middleware()
    scope.__exit__(None, None, None)  # which is nothing


async def test_a_transport_is_led_through_an_open_cassette_only(tmp_path: Path) -> None:
    with use_cassette(tmp_path / "x.mcp.jsonl", mode="none") as cassette:
        with pytest.raises(UnsupportedTargetError, match="cannot record an object of type int"):
            cassette.transport(5)
        with pytest.raises(InterceptError, match="server must be a name, not ''"):
            cassette.transport(NOBODY, server="")
        led = cassette.transport(NOBODY)
    with pytest.raises(SessionStateError, match="is not open"):
        async with led:
            raise AssertionError("it opened")


async def test_the_innermost_is_in_force_also_in_other_threads(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer.mcp.jsonl", tmp_path / "inner.mcp.jsonl"
    with use_cassette(outer, mode="once"):
        with use_cassette(inner, mode="once"):
            await anyio.to_thread.run_sync(lambda: anyio.run(call, travel().transport(), BERGEN))
        await call(travel().transport(), OSLO)
    assert ("Bergen" in inner.read_text(), "Bergen" in outer.read_text(), "Oslo" in outer.read_text()) == (
        True,
        False,
        True,
    )


async def test_a_block_that_is_off_is_off_within_one_that_records_everything(tmp_path: Path) -> None:
    outer = tmp_path / "outer.mcp.jsonl"

    async def ask(command: tuple[str, Any]) -> None:
        server = StdioServerParameters(command=STDIO[0], args=STDIO[1:])
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            await session.call_tool(*command)

    with use_cassette(outer, mode="once", everywhere=True):
        with use_cassette(tmp_path / "inner.mcp.jsonl", mode="off"):
            await call(STDIO, ("echo", {"text": "pear"}))
            await ask(("echo", {"text": "plum"}))
        await ask(("echo", {"text": "quince"}))
    assert [word in outer.read_text() for word in ("pear", "plum", "quince")] == [False, False, True]


def test_two_do_not_record_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    with use_cassette(path, mode="once"):
        with pytest.raises(CassetteLockedError, match="is being recorded by another process"):
            use_cassette(path, mode="once").__enter__()


async def test_its_repr_tells_what_it_does_and_nothing_that_was_said(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    shown: list[str] = []
    for mode in ("once", "none", "verify", "off"):
        with use_cassette(path, mode=mode) as cassette:
            shown.append(repr(cassette).partition(", ")[2])
            await call(travel().transport(), OSLO)
            told = re.search(r"interactions( and \d+ new messages)?>$", repr(cassette))
            assert told is not None
            assert (told[1] is not None) == (mode == "once")
        assert len(cassette) == len(cassette.interactions) == 4
    assert shown == [
        "recording, 0 interactions>",
        "replaying, 4 interactions>",
        "verify, 4 interactions>",
        "off, 0 interactions>",
    ]


# Modes.


async def test_nothing_is_written_where_nothing_was_said_or_the_block_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    with use_cassette(path, mode="once"):
        pass
    with pytest.raises(ValueError, match="bad luck"):
        await record_up_to(ValueError("bad luck"), path, OSLO, mode="once")
    assert names_in(tmp_path) == []
    with pytest.raises(ValueError, match="bad luck"):
        await record_up_to(ValueError("bad luck"), path, OSLO, mode="once", save_on_failure=True)
    assert names_in(tmp_path) == ["x.mcp.jsonl"]


async def test_what_is_interrupted_by_hand_can_be_recovered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.mcp.jsonl"
    with pytest.raises(KeyboardInterrupt):
        await record_up_to(KeyboardInterrupt(), path, OSLO, mode="once")
    assert names_in(tmp_path) == ["x.mcp.jsonl.part"]
    assert "recover" in caplog.text
    with pytest.warns(CassetteWarning, match="what it had is in x.mcp.jsonl.part.1"):
        with use_cassette(path, mode="once"):
            await call(travel().transport(), BERGEN)
    assert "Oslo" in (tmp_path / "x.mcp.jsonl.part.1").read_text()
    with pytest.raises(KeyboardInterrupt), use_cassette(path, mode="rewrite"):
        raise KeyboardInterrupt  # before anything was said
    assert names_in(tmp_path) == ["x.mcp.jsonl", "x.mcp.jsonl.part.1"]


async def test_new_episodes_ask_the_server_only_for_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    before = path.read_text().splitlines()
    with use_cassette(path, mode="new_episodes"):
        assert await call(NOBODY, OSLO) == ["Oslo: snow"]
    assert path.read_text().splitlines() == before
    server = travel()
    with use_cassette(path, mode="new_episodes"):
        assert await call(server.transport(), OSLO, BERGEN) == ["Oslo: snow", "Bergen: snow"]
    assert [request.params["arguments"] for request in server.requests if request.method == "tools/call"] == [
        {"city": "Bergen"}
    ]
    after = path.read_text().splitlines()
    assert after[: len(before) - 1] == before[:-1]
    assert '"city":"Bergen"' in after[len(before) - 1]
    with use_cassette(path, mode="none", unused="fail"):
        assert await call(NOBODY, BERGEN, OSLO) == ["Bergen: snow", "Oslo: snow"]


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_new_episodes_end_as_the_server_ends_that_will_not_begin(tmp_path: Path, hangs_up: bool) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    server = travel()
    refusal = server.error(-32600, "not today")
    server.on("initialize", (lambda params: server.disconnect()) if hangs_up else refusal)
    said: list[str] = []
    with use_cassette(path, mode="new_episodes"):
        async with connect(server.transport(), connection_id="travel") as session:
            for tool, arguments in (OSLO, BERGEN, ("book", {})):
                said.append(await answer(session, tool, arguments))
                if not hangs_up:
                    await session.send_roots_list_changed()  # pyright: ignore[reportDeprecated]
    assert said[0] == "Oslo: snow"
    assert all("Closed" in text or "closed" in text for text in said[1:]) if hangs_up else "not today" in said[2]
    assert [request.method for request in server.requests] == ["initialize"]


@pytest.mark.parametrize("listed", [False, True])
async def test_what_was_recorded_with_one_secret_replays_with_another(tmp_path: Path, listed: bool) -> None:
    def booking(room: int, key: str) -> tuple[str, dict[str, Any]]:
        login = {"api_key": key}
        return "book", {"room": [room], "logins": [login, {}]} if listed else {"room": [room], **login}

    path = tmp_path / "x.mcp.jsonl"
    await record(path, booking(1, "hunter2hunter2"), booking(2, "test"))
    with use_cassette(path, mode="none", unused="fail"):
        said = await call(NOBODY, booking(2, "x"), booking(1, "dummy"))
    assert ["[2]" in said[0], "[1]" in said[1]] == [True, True]
    with pytest.raises(CassetteMissError), use_cassette(path, mode="none"):
        await call(NOBODY, booking(3, "dummy"))


async def test_what_only_looks_like_a_secret_is_not_taken_for_another_one(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, ("book", {"color": "R", "password": "hunter2hunter2"}))
    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none"):
        await call(NOBODY, ("book", {"color": "RED", "password": "dummy"}))
    [miss] = caught.value.misses
    assert [difference.pointer for difference in miss.nearest[0].differences] == ["/arguments/color"]


async def test_a_call_that_times_out_is_recorded_and_times_out_again(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    limit: Any = timedelta(seconds=0.3) if LINE_1 else 0.3

    async def wait(target: Any) -> None:
        async with connect(target, connection_id="tests") as session:
            with pytest.raises(Exception, match="[Tt]imed out"):
                await session.call_tool("slow", {"seconds": 30}, read_timeout_seconds=limit)
            # And leaves, before the server has said that it was called off.

    with use_cassette(path, mode="once"):
        await wait(STDIO)
    assert '"cancelled":true' in path.read_text()
    with use_cassette(path, mode="none", unused="fail"):
        await wait(NOBODY)


async def test_verify_fails_on_what_the_server_says_otherwise_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO, ("book", {"hotel": "Grand"}))
    before = path.read_bytes()
    with use_cassette(path, mode="verify"):
        assert await call(travel().transport(), OSLO) == ["Oslo: snow"]
    changed = travel()
    changed.on_tool("forecast", "sun")
    cassette = use_cassette(path, mode="verify")
    with pytest.raises(CassetteDriftError, match="is no longer what happens: 2 differences") as caught, cassette:
        assert await call(changed.transport(), OSLO, BERGEN) == ["sun", "sun"]
    assert [(drift.name, drift.n > 0) for drift in caught.value.drifts] == [("forecast", True), ("forecast", False)]
    assert len(caught.value.drifts) == 2
    assert '/result/content/0/text: recorded "Oslo: snow", now "sun"' in str(caught.value)
    with use_cassette(path, mode="verify", ignore_results={"forecast": ["/content/0/text"]}):
        await call(changed.transport(), OSLO)
    broken = travel()
    broken.on_tool("forecast", ValueError("no"))
    with pytest.raises(CassetteDriftError), use_cassette(path, mode="verify"):
        await call(broken.transport(), OSLO)
    assert path.read_bytes() == before
    with pytest.raises(CassetteError, match="there is nothing to verify"):
        use_cassette(tmp_path / "none.mcp.jsonl", mode="verify").__enter__()


# What counts as the same.


@pytest.mark.parametrize(
    ("recorded", "asked", "options"),
    [
        ({"n": 1}, {"n": 1.0}, {}),
        ({"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 2.0]}, "a": 1}, {}),
        ({"city": "Oslo", "date": 1}, {"city": "Oslo", "date": 2}, {"ignore": ["date"]}),
        ({"city": "Oslo"}, {"city": "Oslo", "date": 2}, {"ignore": {"book": ["date"]}}),
        ({"at": {"lat": 1, "lon": 2}}, {"at": {"lat": 9, "lon": 2}}, {"ignore": {"tools/call": ["/at/lat"]}}),
        ({"at": [{"t": 1, "x": 0}, 1]}, {"at": [{"t": 2, "x": 0}, 2]}, {"ignore": ["/at/*/t", "/at/1"]}),
        ({"a/b": 1}, {"a/b": 2}, {"ignore": ["/a~1b"]}),
        ({"anything": 1}, {}, {"ignore": {"book": "*"}}),
        ({"q": "OSLO"}, {"q": "oslo"}, {"normalize": lambda method, params: eval(repr(params).lower())}),
        ({"password": "hunter2hunter2"}, {"password": "hunter2hunter2"}, {}),
    ],
)
async def test_what_is_the_same_is_found(
    tmp_path: Path, recorded: dict[str, Any], asked: dict[str, Any], options: dict[str, Any]
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, ("book", recorded))
    with use_cassette(path, mode="none", **options):
        [said] = await call(NOBODY, ("book", asked))
    assert said.startswith("booked")


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [({"n": 1}, {"n": True}), ({"n": 1}, {"n": "1"}), ({"n": [1]}, {"n": [1, 1]}), ({}, {"n": 1})],
)
async def test_what_is_not_the_same_is_not_found(
    tmp_path: Path, recorded: dict[str, Any], asked: dict[str, Any]
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, ("book", recorded))
    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none"):
        await call(NOBODY, ("book", asked))
    [miss] = caught.value.misses
    assert miss.reason == "arguments differ"


def edited(path: Path, edit: Callable[[str], str]) -> None:
    path.write_text(edit(path.read_text()))


@pytest.mark.parametrize(
    ("pattern", "fits", "fails"),
    [
        ('{"$any":true}', {"city": 5}, {}),
        ('{"$regex":"O.*"}', {"city": "Odda"}, {"city": "Bergen"}),
        ('{"$regex":"O.*"}', {"city": "Odda"}, {"city": 5}),
        ('{"$subset":{"name":"Oslo"}}', {"city": {"name": "Oslo", "size": 1}}, {"city": {"name": "Bergen"}}),
        ('[{"$any":true},2]', {"city": [1, 2]}, {"city": [1, 3]}),
    ],
)
async def test_a_placeholder_written_by_hand_stands_for_what_fits(
    tmp_path: Path, pattern: str, fits: dict[str, Any], fails: dict[str, Any]
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    edited(path, lambda text: text.replace('"city":"Oslo"', f'"city":{pattern}'))
    with use_cassette(path, mode="none"):
        assert await call(NOBODY, ("forecast", fits)) == ["Oslo: snow"]
    with pytest.raises(CassetteMissError, match="arguments differ"), use_cassette(path, mode="none"):
        await call(NOBODY, ("forecast", fails))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ('{"$any":false}', "has to be"),
        ('{"$regex":5}', "is no regular expression"),
        ('{"$subset":[1]}', "has to hold an object"),
    ],
)
async def test_a_placeholder_that_is_none_is_told(tmp_path: Path, pattern: str, said: str) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    edited(path, lambda text: text.replace('"city":"Oslo"', f'"city":[{pattern}]'))
    with pytest.raises(CassetteFormatError, match=said), use_cassette(path, mode="none"):
        await call(NOBODY, OSLO)


async def test_what_looks_like_a_placeholder_and_was_said_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    said: dict[str, Any] = {"a": {"$any": True}, "b": [{"$regex": "x"}], "c": {"$literal": {"$file": 1}}}
    await record(path, ("book", said))
    with use_cassette(path, mode="none"):
        assert await call(NOBODY, ("book", said)) == [f"booked {said}"]
    with pytest.raises(CassetteMissError), use_cassette(path, mode="none"):
        await call(NOBODY, ("book", {**said, "a": 1}))


# Order.


async def test_equal_calls_are_answered_in_the_order_in_which_they_were_recorded(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    server = travel()
    server.on_tool("forecast", "one", "two")
    with use_cassette(path, mode="once"):
        await call(server.transport(), OSLO, OSLO)
    said: list[str] = []
    with pytest.raises(CassetteMissError, match="used up; it was recorded 2 times and asked again"):
        with use_cassette(path, mode="none"):
            said += await call(NOBODY, OSLO, OSLO, OSLO)
    assert said[:2] == ["one", "two"]
    assert "No recorded answer" in said[2]


async def test_a_tool_may_answer_in_turn_whatever_it_is_asked_and_tells_how_that_drifted(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO, BERGEN)
    with pytest.warns(CassetteWarning, match=r'/arguments/city: recorded "Oslo", now "oslo, Norway"'):
        with use_cassette(path, mode="none", order="tool") as cassette:
            said = await call(NOBODY, ("forecast", {"city": "oslo, Norway"}), BERGEN)
    assert said == ["Oslo: snow", "Bergen: snow"]
    assert [drift.name for drift in cassette.drifts] == ["forecast"]
    with pytest.raises(CassetteMissError), use_cassette(path, mode="none", order="tool"):
        await call(NOBODY, OSLO, BERGEN, ("forecast", {"city": "Narvik"}))


async def test_strict_order_wants_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO, BERGEN, ("book", {"n": 1}))
    with use_cassette(path, mode="none", order="strict", unused="fail"):
        assert await call(NOBODY, OSLO, BERGEN, ("book", {"n": 1})) == ["Oslo: snow", "Bergen: snow", "booked {'n': 1}"]
    with pytest.raises(CassetteMissError, match="out of order") as caught:
        with use_cassette(path, mode="none", order="strict"):
            await call(NOBODY, OSLO, ("book", {"n": 1}))
    [miss] = caught.value.misses
    assert (miss.nearest[0].title, "use order='any'" in str(miss)) == ("tools/call forecast", True)
    with pytest.raises(CassetteMissError, match="used up"), use_cassette(path, mode="none", order="strict"):
        await call(NOBODY, OSLO, BERGEN, ("book", {"n": 1}), OSLO)
    edited(path, lambda text: text.replace('"request":"tools/call"', '"request":"prompts/get"', 1))
    with pytest.raises(CassetteMissError, match=r"\(method\): recorded prompts/get, now tools/call"):
        with use_cassette(path, mode="none", order="strict"):
            await call(NOBODY, OSLO)


async def test_a_normalizer_that_fails_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    for wrong, said in (
        (lambda *_: 1 / 0, "normalize failed with ZeroDivisionError"),
        (lambda *_: None, "not NoneType"),
    ):
        options: dict[str, Any] = {"normalize": wrong}
        with pytest.raises(CassetteError, match=said), use_cassette(path, mode="none", **options):
            assert "The cassette cannot answer tools/call: normalize" in (await call(NOBODY, OSLO))[0]


# How it ends.


async def test_a_session_that_outlives_it_is_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.mcp.jsonl"
    for mode in ("once", "none"):
        scope = use_cassette(path, mode=mode)
        scope.__enter__()
        async with connect(travel().transport(), connection_id="travel") as session:
            first = await answer(session, *OSLO)
            scope.__exit__(None, None, None)
            late = await answer(session, *BERGEN)
        assert first == "Oslo: snow"
        assert late == "Bergen: snow" if mode == "once" else "block has ended" in late
    assert caplog.text.count("a session goes on after the end") == 1
    assert "Bergen" not in path.read_text()


async def test_a_block_that_nothing_has_passed_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with use_cassette(tmp_path / "x.mcp.jsonl", mode="once"):
        pass
    assert "nothing has passed" in caplog.text
    await record(tmp_path / "x.mcp.jsonl", OSLO)
    with pytest.warns(CassetteWarning, match="nothing has passed"), use_cassette(tmp_path / "x.mcp.jsonl", mode="none"):
        pass


async def test_a_server_that_died_while_it_was_recorded_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = travel()
    server.on_tool("die", lambda arguments: server.disconnect())
    with use_cassette(tmp_path / "x.mcp.jsonl", mode="once"):
        await call(server.transport(), ("die", {}))
    assert "the connection ended while 1 request waited" in caplog.text


# Misses.


async def test_a_miss_tells_what_was_asked_why_it_is_missed_what_is_near_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO, BERGEN)
    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none") as cassette:
        await call(NOBODY, BERGEN, ("forecast", {"city": "Narvik"}))
    assert caught.value.misses == cassette.misses
    [miss] = cassette.misses
    assert str(miss).splitlines() == [
        "No recorded answer to tools/call forecast",
        "  server    travel",
        '  params    {"name": "forecast", "arguments": {"city": "Narvik"}}',
        "  reason    arguments differ",
        f"  cassette  {path} (5 interactions, 1 unused; mode 'none')",
        "  nearest   #3 tools/call forecast, line 5, unused",
        '              /arguments/city: recorded "Oslo", now "Narvik"',
        "            #5 tools/call forecast, line 9, used",
        '              /arguments/city: recorded "Bergen", now "Narvik"',
        "  way out   record what is new with mode='new_episodes', or all again with 'rewrite';"
        " if it may differ: ignore=['city']",
    ]


@pytest.mark.parametrize(
    ("calls", "name", "reason", "said"),
    [
        ([("sing", {})], "travel", "never recorded", "#3 tools/call forecast"),
        ([OSLO], "weather", "unknown server", "the cassette has 'travel'"),
    ],
)
async def test_a_miss_has_a_reason(
    tmp_path: Path, calls: list[tuple[str, dict[str, Any]]], name: str, reason: str, said: str
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)

    async def run() -> None:
        async with connect(NOBODY, connection_id=name) as session:
            await session.call_tool(*calls[0])

    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none"):
        with pytest.raises(Exception, match=f"reason    {reason}"):
            await run()
    [miss] = caught.value.misses
    assert miss.reason == reason
    assert said in str(miss)


async def test_without_a_cassette_the_first_request_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    path = tmp_path / "x.mcp.jsonl"
    with pytest.raises(Exception, match="no such file; mode 'none', as CI is set") as caught:
        with use_cassette(path):
            await call(NOBODY, OSLO)
    assert caught.value.error.code == MISS_CODE  # type: ignore[attr-defined]
    assert names_in(tmp_path) == []


async def test_the_error_of_the_block_goes_on_with_the_misses_as_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)

    async def run() -> None:
        with use_cassette(path, mode="none"):
            await call(NOBODY, BERGEN)
            raise ValueError("the agent is at a loss")

    with pytest.raises(ValueError, match="the agent is at a loss") as caught:
        await run()
    told = "".join(getattr(caught.value, "__notes__", [caplog.text]))
    assert "No recorded answer to tools/call forecast" in told


async def test_many_misses_are_counted_and_not_all_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    with pytest.raises(CassetteMissError, match="no answer to 7 requests") as caught:
        with use_cassette(path, mode="none"):
            await call(NOBODY, *[("forecast", {"city": str(n), **{f"k{i}": i for i in range(9)}}) for n in range(7)])
    assert str(caught.value).endswith("... and 2 more")
    assert "and 5 more" in str(caught.value)
    assert len(caught.value.misses) == 7


async def test_what_nobody_asks_for_is_told_if_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO, BERGEN)
    with use_cassette(path, mode="none") as cassette:
        await call(NOBODY, OSLO)
    assert [one.params for one in cassette.unused] == [{"name": "forecast", "arguments": {"city": "Bergen"}}]
    with pytest.warns(CassetteWarning, match=r"(?s)has 1 request that nobody has made.*#5 tools/call forecast"):
        with use_cassette(path, mode="none", unused="warn"):
            await call(NOBODY, OSLO)
    with pytest.raises(CassetteError, match="has 1 request"), use_cassette(path, mode="none", unused="fail"):
        await call(NOBODY, OSLO)
    with use_cassette(path, mode="none", unused="fail"):
        await call(NOBODY, OSLO, BERGEN)
    with use_cassette(path, mode="rewrite", unused="fail") as cassette:
        await call(travel().transport(), OSLO)
    assert (cassette.unused, len(cassette.interactions)) == ((), 4)


async def test_a_session_of_before_that_is_used_past_the_cassette_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"

    async def use(session: Any, mode: Any) -> None:
        with use_cassette(path, mode=mode):
            await answer(session, *OSLO)

    async with connect(travel().transport()) as session:
        with pytest.warns(CassetteWarning, match="a session that was opened before the block has talked to its server"):
            await use(session, "once")
        await record(path, OSLO)
        for mode in ("once", "none"):
            with pytest.raises(CassetteError, match="opened before the block.*in a fixture of function scope"):
                await use(session, mode)
        with use_cassette(path, mode="none") as cassette:
            assert await answer(intercept(session, cassette.middleware(server="travel")), *OSLO) == "Oslo: snow"
        # It may have to do with something else.
        with use_cassette(path, mode="none"):
            await answer(session, *BERGEN)
            assert await call(NOBODY, OSLO) == ["Oslo: snow"]


async def test_a_session_of_before_that_only_answers_its_server_is_not_used(tmp_path: Path) -> None:
    path, server = tmp_path / "x.mcp.jsonl", travel()
    await record(path, OSLO)
    async with connect(server.transport()):
        scope = use_cassette(path, mode="none")
        scope.__enter__()
        assert await server.ask("ping") == {}
        with pytest.warns(CassetteWarning, match="nothing has passed.*open sessions inside the block"):
            scope.__exit__(None, None, None)


async def test_the_mode_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("MCP_INTERCEPT_CASSETTE_MODE", "rewrite")
    path.rename(tmp_path / "y.mcp.jsonl")
    path = tmp_path / "y.mcp.jsonl"
    with use_cassette(path) as cassette:
        assert await call(travel().transport(), BERGEN) == ["Bergen: snow"]
    assert cassette.mode == "rewrite"
    assert "Oslo" not in path.read_text()
    with use_cassette(path, mode="none"):
        assert await call(NOBODY, BERGEN) == ["Bergen: snow"]
    # Where several use the same file, the others add to it.
    with use_cassette(path) as cassette:
        assert await call(travel().transport(), OSLO) == ["Oslo: snow"]
    assert cassette.mode == "new_episodes"
    assert all(city in path.read_text() for city in ("Oslo", "Bergen"))
    monkeypatch.setenv("MCP_INTERCEPT_CASSETTE_MODE", "never")
    with pytest.raises(InterceptError, match="MCP_INTERCEPT_CASSETTE_MODE must be 'none' or 'once' or"):
        use_cassette(path).__enter__()


async def test_a_miss_tells_of_the_option_only_if_it_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    monkeypatch.setenv("CI", "true")

    async def said(**options: Any) -> str:
        with pytest.raises(CassetteMissError) as caught, use_cassette(path, **options):
            await call(NOBODY, BERGEN)
        return str(caught.value)

    assert "or all again with 'rewrite' (pytest: --mcp-record=...); if" in await said()
    assert "or all again with 'rewrite'; if" in await said(mode="none")
    monkeypatch.delitem(sys.modules, "pytest")
    assert "or all again with 'rewrite' (MCP_INTERCEPT_CASSETTE_MODE=...); if" in await said()


async def test_what_was_redacted_otherwise_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    pin = ("book", {"pin": "4711"})
    await record(path, pin, redaction=Redaction(keys=["pin"]))
    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none"):
        await call(NOBODY, pin)
    assert "it was redacted: give the redaction that it was recorded or redacted with, redaction=Red" in str(
        caught.value
    )
    with use_cassette(path, mode="none", redaction=Redaction(keys=["pin"])):
        await call(NOBODY, pin)


async def test_a_file_with_both_sides_of_a_merge_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "<<<<<<< HEAD\n", *lines[3:]]))
    with pytest.raises(CassetteFormatError, match="line 4: here two versions of it were merged, and are both still"):
        use_cassette(path, mode="rewrite").__enter__()


async def test_a_cassette_with_nothing_in_it_is_one(tmp_path: Path) -> None:
    with use_cassette(tmp_path / "x.mcp.jsonl", mode="once") as cassette:
        assert (len(cassette), bool(cassette)) == (0, True)


# Names of servers.


async def missed(path: Path, target: Any) -> list[str]:
    """The names of the servers that were asked, and were not found."""
    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none"):
        with pytest.raises(Exception, match="No recorded answer to initialize"):
            await call(target, OSLO, name=None)
    return [miss.server for miss in caught.value.misses]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python3.12", "-u", "-m", "weather.server", "--token", "hunter2"], "weather.server"),
        (["bin/python", "servers/weather server.py"], "server"),
        (["python", "server.py"], "server"),
        (["python", str(Path.cwd() / "server.py")], "server"),
        (["python", str(Path.cwd() / "travel" / "src" / "server.py")], "travel"),
        (["python", "/srv/travel/server.py"], "travel"),
        (["python", "/Users/ann/server.py"], "server"),
        (["python", "/Users/ann/travel/src/server.py"], "travel"),
        (["python", "/tmp/tmpa1b2c3d4/server.py"], "server"),
        (["python", "/tmp/pytest-of-ann/pytest-7/server.py"], "server"),
        (["python", "../server.py"], "server"),
        (["node", "C:\\srv\\travel\\dist\\index.js"], "travel"),
        (["uv", "run", "--directory", "/srv/travel", "server.py"], "travel"),
        (["python", "/srv/ghp_0123456789abcdefghijABCDEFGHIJ012345/server.py"], "srv"),
        (StdioServerParameters(command="python", args=["main.py"], cwd="/srv/travel"), "travel"),
        ([sys.executable, Path("servers/weather.py")], "weather"),
        (["npx", "-y", "@acme/server-git@1.2.3", "/repo"], "server-git"),
        (["uv", "run", "--with", "secret", "forecast.py"], "forecast"),
        (["docker", "run", "--rm", "-i", "--token", "hunter2hunter2", "acme/weather"], "weather"),
        (["C:\\tools\\weather.exe"], "weather"),
        (["ghp_0123456789abcdefghijABCDEFGHIJ012345"], "server"),
        (["python"], "server"),
    ],
)
async def test_a_server_that_nobody_has_named_is_called_after_what_is_run(
    tmp_path: Path, command: Any, name: str
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    assert await missed(path, command) == [name]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://ann:hunter2@mcp.example.com/mcp?token=1", "mcp.example.com"),
        ("http://127.0.0.1:4711/mcp", "server"),
        ("http://127.0.0.1:4711/api/weather/mcp", "weather"),
        ("http://[::1/mcp", "server"),
    ],
)
async def test_a_server_at_a_url_is_called_after_its_host(tmp_path: Path, url: str, name: str) -> None:
    assert await missed(tmp_path / "x.mcp.jsonl", url) == [name]


async def test_servers_of_the_same_name_are_told_apart_and_a_single_one_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    one, two = travel(), travel()
    two.on_tool("forecast", "of the other")
    transports = [one.transport(), two.transport()]
    scope = use_cassette(path, mode="once")
    cassette = scope.__enter__()
    for transport in transports:
        await call(cassette.transport(transport), OSLO)
    with pytest.warns(CassetteWarning, match="several servers that are called 'server', and only the order"):
        scope.__exit__(None, None, None)
    assert [cassette.interactions[0].server, cassette.interactions[-1].server] == ["server", "server-2"]
    await record(path, OSLO)
    with use_cassette(path, mode="none"):
        assert await call(NOBODY, OSLO, name=None) == ["Oslo: snow"]


async def test_servers_are_called_as_a_user_says_whatever_the_order(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    servers = {"first": " -u ", "second": " -B ", "nobody": "nobody-is-there", "url": "localhost:1", "other": "calhost"}

    async def ask(*options: str) -> list[list[str]]:
        python, script = STDIO
        return [await call([python, option, script], ("echo", {"text": option}), name=None) for option in options]

    async def ask_in_vain() -> None:
        for target in (NOBODY, "http://localhost:1/mcp", ["weather.exe"]):
            with pytest.raises(Exception, match="No recorded answer"):
                await call(target, OSLO, name=None)

    with use_cassette(path, mode="once", servers=servers) as cassette:
        assert await ask("-u", "-B") == [["-u"], ["-B"]]
    assert {one.server for one in cassette.interactions} == {"first", "second"}
    with use_cassette(path, mode="none", servers=servers):
        assert await ask("-B", "-u") == [["-B"], ["-u"]]
    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none", servers=servers):
        await ask_in_vain()
    assert [miss.server for miss in caught.value.misses] == ["nobody", "url", "weather"]


async def test_the_same_command_in_another_environment_is_told(tmp_path: Path, recwarn: Any) -> None:
    python, script = STDIO

    async def open_two(one: dict[str, str], other: dict[str, str], **options: Any) -> None:
        with use_cassette(tmp_path / "x.mcp.jsonl", mode="rewrite"):
            for env in (one, other):
                params = StdioServerParameters(command=python, args=[script], env=env)
                await call(params, ("echo", {"text": "x"}), **options)

    await open_two({"API_TOKEN": "one-1", "LANG": "C"}, {"API_TOKEN": "two-2", "LANG": "C"}, name=None)
    await open_two({"TENANT": "one"}, {"TENANT": "two"}, name="named")
    assert not recwarn.list
    with pytest.warns(CassetteWarning, match="several servers that are called"):
        await open_two({"TENANT": "one"}, {"TENANT": "two"}, name=None)


async def test_a_miss_says_that_another_server_was_asked_the_very_same(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    with use_cassette(path, mode="rewrite"):
        await call(travel().transport(), OSLO)
        await call(travel().transport(), BERGEN, name="another")
    with pytest.raises(CassetteMissError) as caught, use_cassette(path, mode="none"):
        await call(NOBODY, OSLO, ("forecast", {"city": "Rome"}), name="another")
    first, second = map(str, caught.value.misses)
    assert "arguments differ; the very same was recorded with 'travel'" in first
    assert "or use_cassette(..., servers={...})" in first
    assert "the very same" not in second


# What is in the file.


async def test_timing_is_written_only_if_it_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    assert "seconds" not in path.read_text()
    await record(path, OSLO, timing=True)
    assert path.read_text().count('"seconds":') == 3
    with use_cassette(path, mode="none"):
        assert await call(NOBODY, OSLO) == ["Oslo: snow"]


@pytest.mark.parametrize("over", ["stdio", "everywhere", "http", "http client"])
async def test_what_a_server_was_handed_in_secret_is_looked_for_in_what_is_said(tmp_path: Path, over: str) -> None:
    path = tmp_path / "x.mcp.jsonl"
    secret = "tok-very-secret-123"
    told = "token tok-very-secret-123, plain words, /Oslo/1"
    redaction = Redaction(env=["ACME"])

    async def ask(replays: bool = False) -> str:
        if over in ("stdio", "everywhere"):
            python, script = (NOBODY[0], "server.py") if replays else STDIO
            env = {"SHOP_TOKEN": secret, "ACME": "plain words", "API_KEY": "Oslo", "PWD": "/Oslo/1"}
            params = StdioServerParameters(command=python, args=[script], env=env)
            if over == "stdio":
                return (await call(params, ("echo", {"text": told})))[0]
            async with stdio_client(params) as streams, ClientSession(*streams) as session:
                await session.initialize()
                return await answer(session, "echo", {"text": told})
        headers = {"Authorization": f"Bearer {secret}", "ACME": "plain words"}
        if over == "http":
            async with connect(url, headers=headers, connection_id="s") as session:
                return await answer(session, "echo", {"text": told})
        async with (
            create_mcp_http_client(headers=headers) as client,
            connect(url, http_client=client, connection_id="s") as session,
        ):
            return await answer(session, "echo", {"text": told})

    url = "http://127.0.0.1:1/mcp"
    with http_server() if over.startswith("http") else nullcontext(url) as url:
        with use_cassette(path, mode="once", redaction=redaction, everywhere=True):
            assert await ask() == told
    assert secret not in path.read_text()
    name = "SHOP_TOKEN" if over in ("stdio", "everywhere") else "authorization"
    redacted = f"token REDACTED-{name}, REDACTED-ACME, /Oslo/1"
    with use_cassette(path, mode="none", redaction=redaction, everywhere=True):
        assert await ask(replays=True) == redacted


def test_only_texts_are_looked_for_of_what_a_server_was_handed() -> None:
    made_with = {"API_KEY": b"k-1234567890", b"x-api-key": "k-1234567890", "Limit": 5}
    transport = SimpleNamespace(args=(made_with,), kwds={"headers": {"X-Acme": "1"}})
    assert handed_to(transport, None) == [("x-acme", "1")]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--api-key", "k-123"], [("api-key", "k-123")]),
        (["--api-key=k-123", "x"], [("api-key", "k-123")]),
        (["run", "-e", "TOKEN=k=1=2", "image"], [("TOKEN", "k=1=2"), ("k", "1=2"), ("e", "TOKEN=k=1=2")]),
        (["--last"], []),
        (["--token", "--log-level=5"], [("log-level", "5")]),
        (["https://a.example/?key=k+1"], [("key", "k 1"), ("key", "k+1")]),
        (["--header", "X-Key: k-123"], [("x-key", "k-123"), ("header", "X-Key: k-123")]),
        (["--header=X-Key:k-123"], [("header", "X-Key:k-123"), ("x-key", "k-123")]),
        (["https://a.example/?key=k%2D1&b=2"], [("key", "k-1"), ("b", "2")]),
        (["postgres://u:k-123@db"], [("url", "postgres://u:k-123@db")]),
        (["https://[/?key=k-1"], []),
        (["-", "--", "-5", "C:\\servers\\x.py", "=x"], [("c", "\\servers\\x.py")]),
    ],
)
def test_command_lines_tell_by_what_name_a_server_is_handed_something(
    args: list[str], named: list[tuple[str, str]]
) -> None:
    assert handed_to(None, StdioServerParameters(command="server", args=args)) == named


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_secrets_of_a_command_line_or_url_are_looked_for_in_what_is_said(tmp_path: Path, over: str) -> None:
    path = tmp_path / "x.mcp.jsonl"
    told = "token tok-very-secret-123, password pa55-w0rd"

    async def ask(*target: str) -> str:
        if over == "stdio":
            python, script = target
            # Options of Python, as the server takes none.
            args = ["-X", "api_token=tok-very-secret-123", "-X", "db=postgres://ada:pa55-w0rd@db.example", script]
            return (await call(StdioServerParameters(command=python, args=args), ("echo", {"text": told})))[0]
        [url] = target
        url = url.replace("http://", "http://ada:pa55-w0rd@") + "?api_token=tok-very-secret-123"
        return (await call(url, ("echo", {"text": told})))[0]

    with http_server() if over == "http" else nullcontext("") as url:
        with use_cassette(path, mode="once", servers={"s": "api"}):
            assert await ask(*([url] if over == "http" else STDIO)) == told
    token, database = ("api_token", "url") if over == "http" else ("api_token", "db")
    with use_cassette(path, mode="none", servers={"s": "api"}):
        replayed = await ask(*(["http://127.0.0.1:1/mcp"] if over == "http" else (NOBODY[0], "server.py")))
    assert replayed == f"token REDACTED-{token}, password REDACTED-{database}"
    assert "tok-very" not in path.read_text()
    assert "pa55" not in path.read_text()


async def test_what_is_to_be_redacted_and_has_no_value_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "not for everybody")
    await record(tmp_path / "x.mcp.jsonl", OSLO, redaction=Redaction(env=["MY_SECRET", "NOT_THERE"]))
    assert "NOT_THERE is to be redacted, and has no value here to be looked for" in caplog.text
    assert "MY_SECRET" not in caplog.text


async def test_secrets_are_taken_out_and_what_was_asked_with_them_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    monkeypatch.setenv("MY_SECRET", "not for everybody")
    calls = ("book", {"api_key": "hunter2hunter2", "note": "not for everybody", "code": "A-17"})
    redaction = Redaction(env=["MY_SECRET"], patterns=[r"A-\d+"])
    await record(path, calls, redaction=redaction)
    assert not any(secret in path.read_text() for secret in ("hunter2", "for everybody", "A-17"))
    with use_cassette(path, mode="none", redaction=redaction):
        [said] = await call(NOBODY, calls)
    assert said.startswith("booked")
    await record(path, calls, redaction=None)
    assert "hunter2hunter2" in path.read_text()


async def test_a_cassette_that_is_not_complete_says_so_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO)
    edited(path, lambda text: text.replace('"version":1', '"version":1,"lost":3'))
    with pytest.warns(CassetteWarning, match="3 messages could not be written"), use_cassette(path, mode="none"):
        assert await call(NOBODY, OSLO) == ["Oslo: snow"]
    await record(path, OSLO)


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        ([], None, "it is empty"),
        ([HEADER], 1, "it is cut short"),
        (['{"n":1,"result":{}}', END], 1, "the first line has to be"),
        ([HEADER, END, "{}"], 3, "something stands below the end"),
        ([HEADER, HEADER, END], 2, "a second header"),
        ([HEADER, '{"n":1,"result":{}}', END], 2, "stands where those of none are"),
        ([HEADER, '{"n":1,"server":"s","notification":"x"}', '{"n":1,"result":{}}', END], 3, "is none that ends"),
        ([HEADER, '{"n":2,"server":"s","request":"x"}', '{"n":1,"server":"s","request":"x"}', END], 3, "not in order"),
        ([HEADER, '{"n":1,"server":"s","request":"x","parms":{}}', END], 2, "parms: extra inputs"),
        ([HEADER, '{"n":1,"server":"s","request":5}', END], 2, "request: input should be a valid string"),
        ([HEADER, '{"hello":1}', END], 2, "this is no line of a cassette"),
        ([HEADER, "[1]", END], 2, "a line has to be a JSON object"),
        ([HEADER, '{"n":1,"server":"s","request":"x","params":{"a":NaN}}', END], 2, "NaN is no JSON"),
        ([HEADER.replace(":1}", ":2}"), END], 1, "version 2 of the format, and this is for 1; upgrade"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line_and_is_never_written_over(
    tmp_path: Path, lines: list[str], line: int | None, said: str
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    path.write_text("\n".join(lines))
    for mode in ("none", "once", "new_episodes", "rewrite", "verify"):
        with pytest.raises(CassetteFormatError, match=said) as caught:
            use_cassette(path, mode=mode).__enter__()
        assert (caught.value.line, caught.value.path) == (line, path)
    assert path.read_text() == "\n".join(lines)
    assert [file.name for file in tmp_path.iterdir()] == ["x.mcp.jsonl"]


async def test_windows_line_ends_a_byte_order_mark_and_blank_lines_at_the_end_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    await record(path, OSLO, BERGEN)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    with use_cassette(path, mode="none", unused="fail"):
        assert await call(NOBODY, OSLO, BERGEN) == ["Oslo: snow", "Bergen: snow"]


async def test_a_recording_is_let_through_once_more_by_a_logger_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no log")

    monkeypatch.setattr(logging.getLogger("mcp_intercept"), "error", fail)
    path = tmp_path / "x.mcp.jsonl"
    redaction = Redaction(function=lambda value, where: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.warns(CassetteWarning, match="is not complete"), use_cassette(path, mode="once", redaction=redaction):
        assert await call(travel().transport(), OSLO) == ["Oslo: snow"]


def test_a_cassette_is_a_class_of_the_face() -> None:
    with use_cassette("x.mcp.jsonl", mode="off") as cassette:
        assert isinstance(cassette, Cassette)
        assert (len(cassette), cassette.interactions, cassette.fault()) == (0, [], None)
