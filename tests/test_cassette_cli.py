"""`mcp-intercept cassette`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio
import mcp.types as types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_intercept import connect, recording
from mcp_intercept._cassette_cli.http import listen
from mcp_intercept._cassette_cli.lines import bytes_in_words, schema_text
from mcp_intercept._cassette_cli.serve import Pace, served
from mcp_intercept._cli import main
from mcp_intercept._sdk import line
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.journal import Journal, journal_of
from mcp_intercept.recording.recorder import Recorder
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.store import CassetteFile, write_cassette
from mcp_intercept.recording.stored import SideFiles
from mcp_intercept.recording.values import encode
from tests.wire import LINE_1

if TYPE_CHECKING or not LINE_1:
    import httpx2 as httpx
else:
    import httpx

COMMAND = [sys.executable, "-m", "mcp_intercept", "cassette"]
SECRET = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2"

Lines = dict[str, Any]
Captured = pytest.CaptureFixture[str]


def write(path: Path, *lines: Lines, lost: int = 0) -> Path:
    write_cassette(path, [encode(one) + b"\n" for one in lines], lost=lost)
    return path


def call(
    n: int, tool: str = "book", result: Any = None, *events: Lines, server: str = "weather", **arguments: Any
) -> list[Lines]:
    asked = {"n": n, "server": server, "request": "tools/call", "params": {"name": tool, "arguments": arguments}}
    answer = {"content": [{"type": "text", "text": "done"}]} if result is None else result
    return [asked, *({"n": n, **event} for event in events), {"n": n, "result": answer}]


def listing(n: int, *tools: Lines, server: str = "weather") -> list[Lines]:
    return [{"n": n, "server": server, "request": "tools/list"}, {"n": n, "result": {"tools": list(tools)}}]


def tool(name: str = "book", **more: Any) -> Lines:
    return {"name": name, "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}}, **more}


HANDSHAKE: list[Lines] = [
    {
        "n": 1,
        "server": "weather",
        "request": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "client", "version": "1"},
        },
    },
    {
        "n": 1,
        "result": {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "weather", "version": "1"},
        },
    },
    {"n": 2, "server": "weather", "notification": "notifications/initialized"},
]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))  # for processes, which run in this folder
    return Path("weather.mcp.jsonl")


def cassette(*arguments: object) -> int:
    return main(["cassette", *map(str, arguments)])


def said(capsys: Captured) -> str:
    out, error = capsys.readouterr()
    assert error == ""
    return out


def refused(capsys: Captured, *arguments: object) -> str:
    """What is said on standard error by a command that is refused."""
    assert cassette(*arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("mcp-intercept: ")
    return error


# --- What all commands have in common --------------------------------------------------------------------------------


def test_the_command_alone_says_what_to_try(capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        cassette()
    assert "mcp-intercept cassette show FILE" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "verify", "redact", "prune", "serve", "convert", "scan"])
def test_a_file_that_is_not_there_is_told_in_one_sentence(command: str, path: Path, capsys: Captured) -> None:
    more = {"prune": ["1"], "convert": ["-o", "new.mcp.jsonl"]}.get(command, [])
    assert refused(capsys, command, path, *more) == f"mcp-intercept: {path}: No such file or directory\n"
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("command", ["show", "verify", "redact", "prune", "serve"])
def test_a_recording_that_has_not_come_to_its_end_is_told_by_either_name(
    command: str, path: Path, capsys: Captured
) -> None:
    journal = journal_of(path)
    journal.write_text('{"format":"mcp-cassette-journal","version":1,"mode":"once"}\n', encoding="utf-8")
    for name in (path, journal):
        error = refused(capsys, command, name, *(["1"] if command == "prune" else []))
        assert "of a recording that has not come to its end; `mcp-intercept cassette recover` makes" in error


@pytest.mark.parametrize("command", ["show", "verify", "redact", "prune", "serve"])
def test_a_damaged_cassette_is_refused_with_line_and_reason(command: str, path: Path, capsys: Captured) -> None:
    path.write_bytes(b'{"format":"mcp-cassette","version":1}\nnonsense\n')
    error = refused(capsys, command, path, *(["1"] if command == "prune" else []))
    assert f"{path}, line 2: " in error
    assert path.read_bytes().endswith(b"nonsense\n")


def test_an_error_of_the_system_without_a_file_is_told_too(
    path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errors[0]) if errors[0] else OSError

    monkeypatch.setattr("mcp_intercept._cassette_cli.lines.CassetteFile", fail)
    errors = ["no room"]
    assert refused(capsys, "show", "--json", path) == "mcp-intercept: no room\n"
    errors = [""]
    assert refused(capsys, "show", "--json", path) == "mcp-intercept: OSError\n"


def test_a_reader_who_leaves_is_no_reason_for_a_traceback(path: Path) -> None:
    write(path, *HANDSHAKE)
    with subprocess.Popen(
        [*COMMAND, "show", "--json", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


@pytest.mark.parametrize("command", [["show", "--json"], ["verify"]])
def test_a_pipe_that_breaks_is_left_to_the_command_itself(
    command: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(path: Path) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("mcp_intercept._cassette_cli.lines.CassetteFile", leave)
    monkeypatch.setattr("os.dup2", lambda *descriptors: None)
    assert cassette(*command, path) == 1


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_prints_a_line_for_each_event_in_lanes(path: Path, capsys: Captured) -> None:
    question = {"server_request": "elicitation/create", "params": {"message": "Which seat?"}}
    again = {"server": "weather", "connection": 2, "request": "resources/read"}
    write(
        path,
        *HANDSHAKE,
        *call(
            3,
            "book",
            None,
            {"server_notification": "notifications/progress", "params": {"progress": 1, "total": 3, "message": "off"}},
            {"server_notification": "notifications/progress", "params": {"progress": 2}},
            {"server_notification": "notifications/message", "params": {"level": "info", "data": "hello"}},
            {"server_notification": "notifications/message", "params": {"level": "info", "data": {"a": 1}}},
            {"server_notification": "notifications/tools/list_changed"},
            {**question, "client_result": {"action": "accept", "content": {"seat": "12A"}}},
            {**question, "client_result": {"action": "decline"}},
            {**question, "client_error": {"code": -1, "message": "never"}},
            {**question, "withdrawn": True},
            {"server_request": "roots/list", "client_result": {"roots": []}},
            {"server_request": "ping"},
            city="Oslo",
        ),
        *call(4, "book", {"content": [{"type": "text", "text": "fully booked"}], "isError": True}),
        *call(5, "book", {"content": "nothing", "isError": True}),
        {
            "n": 6,
            "server": "weather",
            "connection": 2,
            "request": "resources/read",
            "params": {"uri": "memo://1", "a": 2},
        },
        {"n": 6, "error": {"code": -32002, "message": "not found", "data": {"b": 1}}},
        {"n": 7, **again, "params": {"uri": "memo://1"}},
        {"n": 7, "cancelled": True},
        {"n": 8, "server": "geo", "request": "tools/call", "params": {"name": "find", "task": {"ttl": 1}}},
        {"n": 8, "closed": "end of stream"},
        {"n": 9, "server": "geo", "request": "logging/setLevel", "params": {"level": "info"}},
        *call(10, "ask", {"inputRequests": {"x": {"method": "roots/list"}}, "requestState": "recorded"}, server="geo"),
        lost=2,
    )
    assert cassette("show", path) == 0
    shown = said(capsys)
    assert [re.sub(" +", " ", re.sub(r"\d[.\d]* k?B", "SIZE", one.strip())) for one in shown.splitlines()] == [
        "weather",
        "#1 ok SIZE initialize 2025-11-25",
        "#2 - SIZE notifications/initialized",
        '#3 ok SIZE tools/call book {"city": "Oslo"}',
        "╰ notifications/progress 1/3 off",
        "╰ notifications/progress 2",
        "╰ notifications/message info: hello",
        '╰ notifications/message info: {"a": 1}',
        "╰ notifications/tools/list_changed",
        '╰ elicitation/create "Which seat?" → accept {"seat": "12A"}',
        '╰ elicitation/create "Which seat?" → decline',
        '╰ elicitation/create "Which seat?" → refused: -1 never',
        '╰ elicitation/create "Which seat?" → withdrawn',
        '╰ roots/list → {"roots": []}',
        "╰ ping → no answer",
        "#4 tool_error SIZE tools/call book",
        "╰ fully booked",
        "#5 tool_error SIZE tools/call book",
        "",
        "weather, connection 2",
        '#6 error SIZE resources/read memo://1 {"a": 2}',
        "╰ -32002 not found",
        "#7 cancelled SIZE resources/read memo://1",
        "",
        "geo",
        '#8 closed SIZE tools/call find {"task": {"ttl": 1}}',
        "╰ end of stream",
        '#9 unanswered SIZE logging/setLevel {"level": "info"}',
        "#10 asks SIZE tools/call ask",
        "╰ roots/list",
        "",
        "10 interactions with 2 servers, SIZE: 2 ok, 1 asks, 2 tool_error, 1 error, 1 closed, 1 unanswered, "
        "1 cancelled",
        "2 messages could not be written when it was recorded",
    ]


def test_show_in_full_cuts_nothing_and_has_results(path: Path, capsys: Captured) -> None:
    long = "x" * 500
    write(
        path,
        *HANDSHAKE,
        *call(
            3,
            "book",
            {"content": [{"type": "text", "text": long}]},
            {"server_notification": "notifications/progress", "params": {"progress": 1, "message": long}},
            {"server_notification": "notifications/message", "params": {"level": "info", "data": long}},
            {
                "server_request": "elicitation/create",
                "params": {"message": long},
                "client_result": {"action": "accept", "content": {"a": 1}},
            },
            city=long,
        ),
        {"n": 4, "server": "weather", "request": "ping"},
        {"n": 4, "error": {"code": 1, "message": "no", "data": {"b": 1}}},
    )
    assert cassette("show", path, "--full") == 0
    shown = said(capsys)
    assert shown.count(long) == 5
    assert len(shown.splitlines()) == 14
    assert '"clientInfo"' in shown
    assert '→ {"action": "accept", "content": {"a": 1}}' in shown
    assert 'data {"b": 1}' in shown
    assert cassette("show", path) == 0
    assert max(map(len, said(capsys).splitlines())) == 100


def test_nothing_that_a_server_said_reaches_the_terminal_as_it_is(path: Path, capsys: Captured) -> None:
    evil = "\x1b[31m\r\n\u202e\x9b2J"
    lines = call(3, evil, {"content": [{"type": "text", "text": evil}], "isError": True}, server=evil, **{evil: evil})
    event = {"server_notification": evil, "params": {evil: evil}}
    lines.insert(1, {"n": 3, **event})
    lines.insert(2, {"n": 3, "server_request": evil, "params": {"message": evil}, "client_result": {"action": evil}})
    lines += [{"n": 4, "server": evil, "request": evil}, {"n": 4, "closed": evil}]
    write(path, *lines)
    other = write(Path("other.mcp.jsonl"), *call(3, evil, server=evil, **{evil: 1}), *call(4, evil, server=evil))
    for arguments in (
        ["show", path],
        ["show", path, "--full"],
        ["show", path, "--json"],
        ["diff", path, other],
        ["diff", path, other, "--json"],
        ["verify", path],
        ["prune", path, "--dry-run", "--method", "tools/call"],
    ):
        assert cassette(*arguments) == 0
        shown = said(capsys)
        assert "31m" in shown
        assert all(character.isprintable() or character == "\n" for character in shown)
        assert len(shown.splitlines()) == shown.count("\n")


def test_show_says_how_long_answers_took_if_that_was_recorded(path: Path, capsys: Captured) -> None:
    slow = {"n": 4, "server": "weather", "request": "ping"}
    write(
        path,
        {"n": 3, "server": "weather", "request": "ping"},
        {"n": 3, "server_notification": "notifications/message", "params": {}, "seconds": 0.5},
        {"n": 3, "result": {}, "seconds": 1.25},
        {"n": 3, "server_notification": "notifications/message", "params": {}, "seconds": 9},
        slow,
        {"n": 4, "result": {}, "seconds": 1234.5},
    )
    assert cassette("show", path) == 0
    assert re.findall(r"\S+ s  ping", said(capsys)) == ["1.250 s  ping", "1234 s  ping"]
    assert cassette("show", path, "--json", "-n", "3") == 0
    assert json.loads(said(capsys))["seconds"] == 1.25


def test_show_is_ascii_where_nothing_else_can_be_shown(path: Path) -> None:
    write(path, *call(3, "book", None, {"server_notification": "ping"}, city="Malmö " * 50))
    shown = subprocess.run(
        [*COMMAND, "show", path], capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert shown.stdout.isascii()
    assert rb"Malm\xf6" in shown.stdout
    assert rb"\ ping" in shown.stdout


def test_show_as_json_is_for_programs(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE, *call(3, city="Malmö"))
    assert cassette("show", path, "--json") == 0
    values = [json.loads(one) for one in said(capsys).splitlines()]
    assert [one["n"] for one in values] == [1, 2, 3]
    assert values[2] == {
        "n": 3,
        "line": 5,
        "server": "weather",
        "connection": 1,
        "kind": "request",
        "method": "tools/call",
        "name": "book",
        "outcome": "ok",
        "bytes": values[2]["bytes"],
        "params": {"name": "book", "arguments": {"city": "Malmö"}},
        "events": [{"result": {"content": [{"type": "text", "text": "done"}]}}],
    }


def test_show_picks_by_server_by_number_and_calls_only(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE, *call(3), *call(5, server="geo"), *call(7))

    def numbers(*arguments: str) -> list[int]:
        assert cassette("show", path, "--json", *arguments) == 0
        return [json.loads(one)["n"] for one in said(capsys).splitlines()]

    assert numbers("--calls") == [3, 5, 7]
    assert numbers("--server", "geo") == [5]
    assert numbers("-n", "1-3", "-n", "7") == [1, 2, 3, 7]
    assert numbers("--calls", "--server", "weather", "-n", "1-4") == [3]
    assert cassette("show", path, "--server", "geo", "--calls") == 0
    assert "1 interaction with 1 server" in said(capsys)
    assert "no server 'moon'; it has 'weather', 'geo'" in refused(capsys, "show", path, "--server", "moon")
    assert "no interaction 4; they go from 1 to 7" in refused(capsys, "show", path, "-n", "4")
    assert "no interaction 8-9;" in refused(capsys, "show", path, "-n", "8-9")
    assert numbers("-n", f"7-{10**17}") == [7]
    assert "no interaction 8-" in refused(capsys, "show", path, "-n", f"8-{10**17}")


@pytest.mark.parametrize("number", ["0", "x", "5-3", "-1"])
def test_a_number_that_is_none_is_refused(number: str, path: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        cassette("show", path, f"-n={number}")
    assert "-n" in capsys.readouterr().err


def test_an_empty_cassette_is_shown_as_such(path: Path, capsys: Captured) -> None:
    write(path)
    assert cassette("show", path) == 0
    assert said(capsys) == "0 interactions with 0 servers, 0 B\n"
    assert "it has none" in refused(capsys, "show", path, "-n", "1")
    assert "no server 'x'; it has none" in refused(capsys, "show", path, "--server", "x")
    assert "has no server" in refused(capsys, "serve", path)


def test_show_needs_rich_and_says_so(path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path)
    monkeypatch.setattr("mcp_intercept._cassette_cli.parser.find_spec", lambda name: None)
    assert 'pip install "mcp-intercept-sdk[cli]"' in refused(capsys, "show", path)
    assert cassette("show", path, "--json") == 0


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99949, "99.9 kB"),
        (123456, "123 kB"),
        (999500, "1.0 MB"),
        (5000000000, "5.0 GB"),
        (999499, "999 kB"),
    ],
)
def test_sizes_are_told_in_few_characters(size: int, words: str) -> None:
    assert bytes_in_words(size) == words


# --- diff ------------------------------------------------------------------------------------------------------------


def test_diff_of_the_same_says_so(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE, *listing(3, tool()), *call(4))
    assert cassette("diff", path, path, "--fail-on", "any") == 0
    assert said(capsys) == "no change\n"
    assert cassette("diff", path, path, "--json") == 0
    assert said(capsys) == ""


def test_diff_tells_breaking_changes_first_and_fails_on_them(path: Path, capsys: Captured) -> None:
    new = Path("new.mcp.jsonl")
    write(path, *listing(1, tool("book"), tool("find")), *listing(2, tool(), server="geo"))
    write(new, *listing(1, tool("book", title="Book"), tool("more")), *listing(2, server="geo"))
    assert cassette("diff", path, new) == 1
    lines = said(capsys).splitlines()
    assert [one.split(":")[0] for one in lines if "capabilities" not in one] == [
        "breaking    tool find",
        "breaking    tool book",
        "compatible  tool book at /title",
        "compatible  tool more",
        "2 breaking changes, " + lines[-1].split(", ")[1],
    ]
    assert "(server geo)" in lines[1]
    assert cassette("diff", path, new, "--fail-on", "never") == 0
    assert cassette("diff", path, new, "--server", "geo") == 1
    capsys.readouterr()
    assert cassette("diff", path, new, "--json", "--server", "geo") == 1
    assert {"kind": "breaking", "server": "geo", "subject": "tool book", "pointer": ""}.items() <= json.loads(
        said(capsys).splitlines()[0]
    ).items()
    assert "no server 'moon'" in refused(capsys, "diff", path, new, "--server", "moon")


def test_diff_tells_what_a_model_reads_of_parameters_and_fails_on_none_of_it(path: Path, capsys: Captured) -> None:
    new = Path("new.mcp.jsonl")
    find = {"name": "find", "inputSchema": {"type": "object", "properties": {"limit": {"type": "integer"}}}}
    limited = {"type": "integer", "default": 3, "description": "NEVER more than 2"}
    owned = {"type": "object", "properties": {"limit": limited, "owner": {"type": "string"}}}
    write(path, *listing(1, find))
    write(new, *listing(1, {**find, "inputSchema": owned}))
    assert cassette("diff", path, new) == 0
    assert said(capsys).splitlines()[-4:] == [
        "compatible  tool find at /inputSchema/properties/limit/default: default was nothing, is 3",
        "compatible  tool find at /inputSchema/properties/limit/description: "
        'description was nothing, is "NEVER more than 2"',
        'compatible  tool find at /inputSchema/properties/owner: "owner" is new',
        "0 breaking changes, 3 compatible",
    ]
    assert cassette("diff", path, new, "--fail-on", "compatible") == 1


def test_what_fails_can_be_chosen(path: Path, capsys: Captured) -> None:
    titled, other = Path("titled.mcp.jsonl"), Path("other.mcp.jsonl")
    capabilities = HANDSHAKE
    write(path, *capabilities, *listing(3, tool()), *call(4))
    write(titled, *capabilities, *listing(3, tool(title="Book")), *call(4))
    write(other, *capabilities, *listing(3, tool()), *call(4, city="Oslo"))
    codes = {
        (new.stem, fail_on): cassette("diff", path, new, "--fail-on", fail_on)
        for new in (titled, other)
        for fail_on in ("breaking", "compatible", "any")
    }
    assert codes == {
        ("titled.mcp", "breaking"): 0,
        ("titled.mcp", "compatible"): 1,
        ("titled.mcp", "any"): 1,
        ("other.mcp", "breaking"): 0,
        ("other.mcp", "compatible"): 0,
        ("other.mcp", "any"): 1,
    }


def test_diff_holds_the_same_calls_against_each_other(path: Path, capsys: Captured) -> None:
    new = Path("new.mcp.jsonl")
    progress = {"server_notification": "notifications/progress", "params": {"progress": 1}}
    late = {"n": 2, "server_notification": "notifications/message", "params": {"data": "late"}, "seconds": 2}
    write(path, *call(1, a=1), *call(2, a=2), late, *call(3, "gone"), *call(4, "same"))
    write(
        new,
        *call(1, "same", None),
        *call(2, "book", {"content": []}, progress, a=2),
        *call(3, a=5),
        *call(4, "added"),
        *[{"n": 5, "server": "weather", "request": "x"}, {"n": 5, "error": {"code": 1, "message": "m"}, "seconds": 1}],
    )
    assert cassette("diff", path, new) == 0
    assert [one.strip() for one in said(capsys).splitlines()] == [
        "changed     #2 -> #2 tools/call book (server weather)",
        '/result/content/0: recorded {"type": "text", "text": "done"}, now (absent)',
        '/after: recorded [{"server_notification": "notifications/message", "params": {"data": "late"}}], now (absent)',
        '/before: recorded (absent), now [{"server_notification": "notifications/progress", '
        '"params": {"progress": 1}}]',
        "changed     #1 -> #3 tools/call book (server weather)",
        "/params/arguments/a: recorded 1, now 5",
        "removed     #3 tools/call gone (server weather)",
        "added       #4 tools/call added (server weather)",
        "added       #5 x (server weather)",
        "0 breaking changes, 0 compatible; 2 calls changed; 1 call removed; 2 calls added",
    ]
    assert cassette("diff", path, new, "--json") == 0
    values = [json.loads(one) for one in said(capsys).splitlines()]
    assert [(one["kind"], one["old"], one["new"]) for one in values] == [
        ("changed", 2, 2),
        ("changed", 1, 3),
        ("removed", 3, None),
        ("added", None, 4),
        ("added", None, 5),
    ]
    assert values[1]["differences"] == [{"pointer": "/params/arguments/a", "old": "1", "new": "5"}]


# --- verify without a server -----------------------------------------------------------------------------------------


def test_verify_says_what_a_sound_cassette_has(path: Path, capsys: Captured) -> None:
    side_files = SideFiles(path)
    large = side_files.store({"content": [{"type": "text", "text": "x" * 70_000}]})
    write(path, *HANDSHAKE, *call(3, "book", large), lost=1)
    (side_files.folder / "notes.txt").write_text("mine")
    Path(f"{path}.part").write_text("")
    assert cassette("verify", path, "--server", "weather") == 0
    assert said(capsys).splitlines() == [
        "weather.mcp.jsonl: sound, 3 interactions, 1 file beside it",
        "  weather: 3 interactions",
        "  it is not complete: 1 message could not be written when it was recorded",
        "  nothing refers to 1 file in weather.mcp.files: notes.txt",
        "  weather.mcp.jsonl.part is there: it is being recorded, or that has not come to its end",
    ]
    for number in range(6):
        (side_files.folder / f"notes{number}.txt").write_text("mine")
    assert cassette("verify", path) == 0
    assert "notes3.txt, ...\n" in said(capsys)
    assert "no server 'geo'" in refused(capsys, "verify", path, "--server", "geo")
    for file in side_files.folder.iterdir():
        file.unlink()
    assert "line 6: weather.mcp.files/" in refused(capsys, "verify", path)


def test_what_needs_a_server_is_refused_without_one(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE)
    for option in (["--calls"], ["--all-calls"], ["--json"], ["--fail-on", "any"]):
        assert "needs a server to compare with" in refused(capsys, "verify", path, *option)
    assert "there is no command behind --" in refused(capsys, "verify", path, "--")
    assert "not both" in refused(capsys, "verify", path, "--url", "http://127.0.0.1:9/", "--", "python")
    assert "UnsupportedTargetError" in refused(capsys, "verify", path, "--url", "nonsense")


@pytest.mark.parametrize("seconds", ["0", "x", "inf", "nan"])
def test_a_time_that_is_none_is_refused(seconds: str, path: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        cassette("verify", path, "--timeout", seconds)
    assert "seconds above 0" in capsys.readouterr().err


# --- redact ----------------------------------------------------------------------------------------------------------


def test_redact_takes_secrets_out_and_changes_nothing_else(path: Path, capsys: Captured) -> None:
    by_hand = b'{"n":9, "server":"weather", "request":"ping", "params":{"password":{"$regex":"[a-z]+"}}}\n'
    lines = [
        *call(
            1,
            "login",
            {"structuredContent": {"token": SECRET}},
            {"server_notification": "notifications/message", "params": {"data": {"password": "hunter22"}}},
            {
                "server_request": "elicitation/create",
                "params": {"message": SECRET},
                "client_result": {"action": "accept", "content": {"pin": 1, "password": "hunter22"}},
            },
            {
                "server_request": "roots/list",
                "client_error": {"code": 1, "message": f"Bearer {SECRET}"},
            },
            password="hunter22",
            list=["a", f"Bearer {SECRET}"],
            same=["a"],
        ),
        {"n": 2, "server": "weather", "request": "ping"},
        {"n": 2, "error": {"code": 1, "message": f"Bearer {SECRET}"}},
        {"n": 3, "server": "weather", "request": "ping"},
        {"n": 3, "closed": f"Bearer {SECRET}"},
        {"n": 4, "server": "weather", "notification": "notifications/x", "params": {"a": {"password": "hunter22"}}},
        *call(5, "clean", city="Oslo"),
        *call(6, "escaped", None, value={"$literal": {"$any": {"password": "hunter22"}, "b": "c"}}),
    ]
    encoded = [encode(one) + b"\n" for one in lines]
    write_cassette(path, [*encoded, by_hand], lost=3)
    before = path.read_bytes().splitlines()
    assert cassette("redact", path, "--dry-run") == 0
    assert said(capsys) == "weather.mcp.jsonl: 11 values would be replaced\n"
    assert path.read_bytes().splitlines() == before
    assert cassette("redact", path) == 0
    assert said(capsys) == "weather.mcp.jsonl: 11 values replaced\n"
    after = path.read_bytes()
    assert SECRET.encode() not in after
    assert b"hunter22" not in after
    assert b'{"$literal":{"$any":{"password":"REDACTED"},"b":"c"}}' in after
    changed = [new for old, new in zip(before, after.splitlines(), strict=True) if old != new]
    assert len(changed) == 9
    assert by_hand in after
    assert cassette("redact", path) == 0
    assert said(capsys) == "weather.mcp.jsonl: 0 values replaced\n"
    assert path.read_bytes() == after


def test_redact_knows_what_else_is_secret(path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITY", "Copenhagen")
    monkeypatch.setenv("SHORT", "abc")
    write(path, *call(1, code="four", city="to Copenhagen", number="A-123", password="public"))
    options = ["--key", "code", "--pattern", r"A-\d+", "--env", "CITY", "--env", "SHORT", "--env", "UNSET"]
    options += ["--allow", "password"]
    assert cassette("redact", path, *options) == 0
    out, error = capsys.readouterr()
    assert out.startswith("weather.mcp.jsonl: 3 values replaced\nwhat replays it has to redact the same: give use_cass")
    unable = (
        "mcp-intercept: the value of SHORT is too short to be looked for\n"
        "mcp-intercept: UNSET is not set, so its value is not looked for\n"
    )
    assert error == unable
    cassette("scan", path, "--env", "SHORT", "--env", "UNSET")
    assert capsys.readouterr().err == unable
    written = path.read_bytes()
    for secret, is_there in ((b"four", False), (b"Copenhagen", False), (b"A-123", False), (b"public", True)):
        assert (secret in written) == is_there
    assert "no regular expression" in refused(capsys, "redact", path, "--pattern", "(")


def test_redact_and_verify_take_folders_and_several_files_and_go_on_where_one_is_damaged(
    path: Path, capsys: Captured
) -> None:
    folder, damaged = Path("cassettes"), Path("cassettes/b.mcp.jsonl")
    (folder / "deep").mkdir(parents=True)
    whole = [path, folder / "a.mcp.jsonl", folder / "deep" / "c.mcp.jsonl"]
    for number, each in enumerate(whole):
        write(each, *call(1, code="four", **({"password": "hunter22"} if number else {})))
    damaged.write_bytes(b'{"format":"mcp-cassette","version":1}\nnonsense\n')
    (folder / "d.mcp.jsonl.part").write_text("of a recording")

    for command in (["verify", path, folder], ["redact", path, "--key", "code", folder, "--dry-run"]):
        assert cassette(*command) == 2
        out, error = capsys.readouterr()
        assert error.startswith(f"mcp-intercept: {damaged}, line 2: ")
        assert all(str(each) in out for each in whole)
    assert all(b"hunter22" in each.read_bytes() for each in whole[1:])
    damaged.unlink()

    assert cassette("verify", path, folder) == 0
    assert [line.partition(":")[0] for line in said(capsys).splitlines() if "sound" in line] == list(map(str, whole))
    assert cassette("redact", path, "--key", "code", folder) == 0
    assert said(capsys).splitlines() == [
        f"{whole[0]}: 1 value replaced",
        f"{whole[1]}: 2 values replaced",
        f"{whole[2]}: 2 values replaced",
        "what replays it has to redact the same: give use_cassette(..., redaction=Redaction(...)) these options",
    ]
    assert not any(b"hunter22" in each.read_bytes() for each in whole)

    for several in ([path, folder / "a.mcp.jsonl"], [folder]):
        assert "--output goes with one cassette" in refused(capsys, "redact", *several, "-o", "new.mcp.jsonl")
    assert "one cassette is compared" in refused(capsys, "verify", path, whole[1], "--url", "http://127.0.0.1:9/")
    Path("empty").mkdir()
    for name in ("verify", "redact"):
        assert refused(capsys, name, "empty") == "mcp-intercept: there is no cassette in empty\n"


def test_redact_goes_over_large_values_and_can_write_elsewhere(path: Path, capsys: Captured) -> None:
    other = Path("public.mcp.jsonl")
    side_files = SideFiles(path)
    secret = side_files.store({"text": f"password={SECRET} " + "x" * 70_000})
    harmless = side_files.store({"text": "y" * 70_000})
    write(path, *call(1, "a", secret), *call(2, "b", harmless))
    assert cassette("redact", path, "-o", other) == 0
    assert said(capsys) == "public.mcp.jsonl: 1 value replaced\n"
    files = list(SideFiles(other).folder.iterdir())
    assert len(files) == 2
    assert not any(SECRET in file.read_text() for file in files)
    with open_cassette(other) as file:
        assert [len(one.result["text"]) > 70_000 - 1 for one in file if one.result] == [True, True]
    assert sum(SECRET in file.read_text() for file in side_files.folder.iterdir()) == 1
    assert "exists already" in refused(capsys, "redact", path, "-o", other)
    assert cassette("redact", path) == 0
    assert sum(SECRET in file.read_text() for file in side_files.folder.iterdir()) == 0
    assert len(list(side_files.folder.iterdir())) == 2


def test_what_a_server_says_about_files_names_none(path: Path, capsys: Captured) -> None:
    secret = Path("secret.txt")
    secret.write_text("mine")
    said_by_server = SideFiles(path).store({"$file": "../secret.txt", "text": "z" * 70_000, "password": "hunter22"})
    write(path, *call(1, "evil", said_by_server), *call(2))
    assert cassette("redact", path, "-o", "new.mcp.jsonl") == 0
    assert cassette("show", path) == 0
    assert cassette("verify", path) == 0
    assert "1 file beside it" in capsys.readouterr().out
    assert cassette("prune", path, "2") == 0
    assert sorted(file.name for file in Path().iterdir()) == [
        "new.mcp.files",
        "new.mcp.jsonl",
        "secret.txt",
        "weather.mcp.files",
        "weather.mcp.jsonl",
    ]


LEAVES = (
    st.none()
    | st.booleans()
    | st.sampled_from([SECRET, f"Bearer {SECRET}", "x", "y" * 40, "z" * 31 + f" {SECRET}", '{"password":"hunter22"}'])
)
KEYS = st.sampled_from(["a", "password", "$any", "$literal", "$file", "token", "data", "name", "text"])
VALUES = st.recursive(
    LEAVES, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(KEYS, inside, max_size=3), max_leaves=8
)


@settings(max_examples=50)
@given(VALUES, VALUES)
def test_what_was_recorded_and_redacted_is_what_would_have_been_recorded_redacted(argument: Any, answer: Any) -> None:
    params, result = {"name": "book", "arguments": {"value": argument}}, {"structuredContent": {"value": answer}}
    redactor = Redactor(Redaction())
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        for limit in ("LARGE_TEXT", "LARGE_BINARY"):
            patched.setattr(f"mcp_intercept.recording.stored.{limit}", 30)
        path = Path(folder) / "weather.mcp.jsonl"
        stored = SideFiles(path).store
        asked = {"n": 1, "server": "weather", "request": "tools/call", "params": stored(params)}
        write(path, asked, {"n": 1, "result": stored(result)})
        assert cassette("redact", path) == 0
        with open_cassette(path) as file:
            one = file.load(0)
        assert one.params == redactor.params("tools/call", params)
        assert one.result == redactor.result("tools/call", result)
        written = path.read_bytes()
        assert cassette("redact", path) == 0
        assert path.read_bytes() == written


@contextmanager
def open_cassette(path: Path) -> Generator[CassetteFile, None, None]:
    file = CassetteFile(path)
    try:
        yield file
    finally:
        file.close()


@pytest.mark.parametrize("arguments", [["redact"], ["prune", "1"]])
def test_a_cassette_that_is_being_recorded_is_not_changed(arguments: list[str], path: Path, capsys: Captured) -> None:
    write(path, *call(1))
    journal = Journal(path)
    command, *more = arguments
    assert "let the recording end first" in refused(capsys, command, path, *more)
    journal.discard()
    assert cassette(command, path, *more) == 0


# --- scan ------------------------------------------------------------------------------------------------------------


def test_scan_says_where_and_never_what(path: Path, capsys: Captured) -> None:
    side_files = SideFiles(path)
    large = side_files.store({"text": SECRET + " " + "x" * 70_000})
    write(path, *call(1, "a", None, key=SECRET, inside={SECRET: {"password": "hunter22"}}), *call(2, "b", large))
    assert cassette("scan", path) == 1
    shown = said(capsys)
    assert shown.splitlines()[-1] == f"{len(shown.splitlines()) - 1} findings in 1 file"
    assert f"{path}:2: GitHub token at /params/arguments/key\n" in shown
    assert f"{path}:5: GitHub token at /result/text\n" in shown
    assert SECRET not in shown
    assert "hunter22" not in shown


def test_scan_of_what_is_clean_says_so(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE, *call(3, city="Oslo"))
    assert cassette("scan", path, path) == 0
    assert said(capsys) == "nothing found in 2 files\n"
    assert cassette("scan", path, "--pattern", "Os.o") == 1


def test_scan_looks_into_folders_journals_and_what_is_cut_short(path: Path, capsys: Captured) -> None:
    write(path, *call(1))
    Path("deep").mkdir()
    Path("deep/b.mcp.jsonl.part.1").write_bytes(
        b'{"format":"mcp-cassette-journal","version":1}\n' + encode({"line": {"params": {"k": SECRET}}})[:-3]
    )
    assert cassette("scan", ".") == 1
    shown = said(capsys)
    assert shown.startswith("deep/b.mcp.jsonl.part.1:2: GitHub token\n")
    assert SECRET not in shown
    assert shown.endswith("in 2 files\n")


def test_scan_refuses_what_is_no_cassette(path: Path, capsys: Captured) -> None:
    Path("empty").mkdir()
    assert "there is no cassette in empty" in refused(capsys, "scan", "empty")
    for content in (b"nonsense\n", b"{}\n", b"[]\n"):
        path.write_bytes(content)
        assert f"{path}, line 1: this is no cassette" in refused(capsys, "scan", path)
    write(path, {"n": 1, "server": "x", "request": "ping", "params": {"$file": "0" * 16 + ".txt", "encoding": "text"}})
    assert f"{path}, line 2: " in refused(capsys, "scan", path)


def test_scan_goes_on_where_a_file_cannot_be_read(path: Path, capsys: Captured) -> None:
    write(path, *call(1, key=SECRET))
    Path("a.mcp.jsonl").write_text("nonsense\n")
    Path("b.mcp.jsonl").symlink_to("nowhere")
    assert cassette("scan", ".") == 2
    shown = capsys.readouterr()
    assert f"{path}:2: GitHub token" in shown.out
    assert shown.out.endswith("in 1 file\n")
    assert "a.mcp.jsonl, line 1: this is no cassette" in shown.err
    assert "b.mcp.jsonl: No such file" in shown.err


@pytest.mark.parametrize("command", ["show", "prune", "serve"])
def test_a_folder_is_no_cassette(command: str, path: Path, capsys: Captured) -> None:
    assert "is a folder" in refused(capsys, command, Path("."), *(["1"] if command == "prune" else []))


# --- prune -----------------------------------------------------------------------------------------------------------


def test_prune_removes_by_number_and_leaves_the_other_lines_as_they_are(path: Path, capsys: Captured) -> None:
    side_files = SideFiles(path)
    first, second = (side_files.store({"text": letter * 70_000}) for letter in "ab")
    write(path, *call(1, "a", first), *call(2), *call(3), *call(4, "b", second), *call(5), lost=1)
    before = path.read_bytes()
    assert cassette("prune", path, "1", "3-4", "--dry-run") == 0
    assert said(capsys).endswith("weather.mcp.jsonl: 3 interactions would be removed, 2 left\n")
    assert path.read_bytes() == before
    assert cassette("prune", path, "1-3") == 0
    assert said(capsys).splitlines() == [
        "#1 tools/call a (server weather)",
        "#2 tools/call book (server weather)",
        "#3 tools/call book (server weather)",
        "weather.mcp.jsonl: 3 interactions removed, 2 left",
    ]
    left = path.read_bytes().splitlines()
    assert left == [before.splitlines()[0], *before.splitlines()[-5:]]
    assert [file.read_text()[0] for file in side_files.folder.iterdir()] == ["b"]
    assert cassette("verify", path) == 0


@pytest.mark.parametrize(
    ("option", "left"),
    [
        (["--method", "ping"], [1, 2, 4]),
        (["--tool", "a"], [2, 3, 4]),
        (["--server", "geo"], [1, 2, 3]),
        (["--tool", "a", "--method", "ping", "4"], [2]),
        (["--tool", "none"], [1, 2, 3, 4]),
    ],
)
def test_prune_removes_all_that_an_option_names(option: list[str], left: list[int], path: Path) -> None:
    ping = [{"n": 3, "server": "weather", "request": "ping"}, {"n": 3, "result": {}}]
    write(path, *call(1, "a"), *call(2, "b"), *ping, *call(4, "c", server="geo"))
    assert cassette("prune", path, *option) == 0
    with open_cassette(path) as file:
        assert [one.n for one in file] == left


def test_prune_wants_to_be_told_what(path: Path, capsys: Captured) -> None:
    write(path, *call(1))
    assert "which ones?" in refused(capsys, "prune", path)
    assert "no interaction 2" in refused(capsys, "prune", path, "2")
    assert "no server 'moon'" in refused(capsys, "prune", path, "--server", "moon")


# --- recover ---------------------------------------------------------------------------------------------------------


def leave_journal(path: Path) -> Path:
    """What a recording of one call has written down when it is killed."""
    journal = Journal(path)
    recorder = Recorder(journal, Redactor(Redaction()), mode="once", timing=False)
    number = recorder.connect("weather")
    recorder.sent(number, Frame(1, "tools/call", {"name": "book"}))
    recorder.received(number, Frame(1, None, None, {"content": []}))
    journal.close()
    return journal.path


@pytest.mark.parametrize("by_journal", [False, True])
def test_recover_makes_a_cassette_and_removes_the_journal(by_journal: bool, path: Path, capsys: Captured) -> None:
    journal = leave_journal(path)
    assert cassette("recover", journal if by_journal else path) == 0
    assert said(capsys) == "weather.mcp.jsonl: 1 interaction of 2 messages\n"
    assert not journal.exists()
    with open_cassette(path) as file:
        assert [one.name for one in file] == ["book"]
    assert "there is no journal of" in refused(capsys, "recover", path)


def test_recover_leaves_out_a_torn_line_and_can_keep_the_journal(path: Path, capsys: Captured) -> None:
    journal = leave_journal(path)
    with open(journal, "ab") as file:
        file.write(b'{"c":1,"q":2')
    assert cassette("recover", path, "--keep") == 0
    assert said(capsys).endswith("1 interaction of 2 messages; the last line was cut short, and is left out\n")
    assert journal.exists()
    assert "there is a cassette already" in refused(capsys, "recover", path)
    assert cassette("recover", journal, "-o", "other.mcp.jsonl") == 0
    assert not journal.exists()


def test_recover_asks_which_journal_if_there_are_several(path: Path, capsys: Captured) -> None:
    journal = leave_journal(path)
    for number in (10, 9):
        journal.rename(f"{journal}.{number}")
        leave_journal(path)
    Path(f"{path}.part.x").write_text("")
    error = refused(capsys, "recover", path)
    assert re.sub(r" \([^)]*\)", "", error).endswith(
        "weather.mcp.jsonl.part, weather.mcp.jsonl.part.9, weather.mcp.jsonl.part.10\n"
    )
    assert cassette("recover", f"{path}.part.9") == 0
    assert said(capsys).startswith("weather.mcp.jsonl: ")
    Path(f"{path}.part").unlink()
    path.unlink()
    assert cassette("recover", path) == 0


def test_a_journal_under_another_name_needs_an_output(path: Path, capsys: Captured) -> None:
    leave_journal(path).rename("backup")
    assert "say with --output" in refused(capsys, "recover", "backup")
    assert cassette("recover", "backup", "-o", path) == 0
    capsys.readouterr()
    path.write_text("nonsense")
    assert "there is no journal" in refused(capsys, "recover", path)
    path.write_text("[]")
    assert "there is no journal" in refused(capsys, "recover", path)


# --- convert ---------------------------------------------------------------------------------------------------------

PEERS = Path(__file__).parent / "cassettes_of_peers"


def test_convert_makes_a_cassette_of_what_others_have_recorded(path: Path, capsys: Captured) -> None:
    assert cassette("convert", PEERS / "mcp_cassette_stdio.json", "-o", path, "--server", "weather") == 0
    assert re.fullmatch(r"weather.mcp.jsonl: \d+ interactions with weather\n", said(capsys))
    with open_cassette(path) as file:
        assert file.servers == ["weather"]
        assert [one.n for one in file] == list(range(1, len(file) + 1))
    assert "exists already" in refused(capsys, "convert", PEERS / "mcp_rec_stdio.jsonl", "-o", path)
    assert cassette("convert", PEERS / "mcp_rec_stdio.jsonl", "-o", "other.mcp.jsonl") == 0


def test_what_is_converted_is_redacted_and_what_is_lost_is_told(
    path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Lines] = [
        {"server_notification": "notifications/message", "params": {"data": SECRET}},
        {"server_request": "elicitation/create", "client_result": {"action": "accept", "content": {"k": SECRET}}},
        {"server_request": "roots/list", "client_error": {"code": 1, "message": SECRET}},
        {"result": {"content": [{"type": "text", "text": SECRET}]}},
    ]
    interactions = [
        Interaction(7, "a", 2, "request", "tools/call", {"name": "x", "arguments": {"k": SECRET}}, told),
        Interaction(9, "b", 1, "request", "ping", None, [{"error": {"code": 1, "message": SECRET}}]),
    ]

    def convert(path: Path) -> list[Interaction]:
        warnings.warn("half of it is lost\x1b", stacklevel=1)
        return interactions

    monkeypatch.setattr("mcp_intercept._cassette_cli.edit.convert", convert)
    assert cassette("convert", "theirs", "-o", path) == 0
    out, error = capsys.readouterr()
    assert out == "weather.mcp.jsonl: 2 interactions with a, b\n"
    assert error == "mcp-intercept: half of it is lost\\x1b\n"
    written = path.read_bytes()
    assert SECRET.encode() not in written
    assert written.count(b"REDACTED") == 6
    assert b'{"n":1,"server":"a","connection":2,"request":"tools/call","params":' in written
    assert b'{"n":2,"server":"b","request":"ping"}\n' in written
    path.unlink()
    assert cassette("convert", "theirs", "-o", path, "--server", "c") == 2
    assert "several servers" in capsys.readouterr().err
    interactions.clear()
    assert cassette("convert", "theirs", "-o", path) == 0
    assert capsys.readouterr().out == "weather.mcp.jsonl: 0 interactions\n"


# --- verify with a server --------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys
answers = json.load(open(sys.argv[1]))
for text in sys.stdin:
    asked = json.loads(text)
    if "id" in asked:
        params = asked.get("params") or {}
        about = params.get("name") or params.get("cursor")
        answer = answers.get(f"{asked['method']} {about}") or answers.get(asked["method"])
        answer = answer or {"error": {"code": -32601, "message": "Method not found"}}
        print(os.path.expandvars(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer})), flush=True)
"""

Answers = dict[str, dict[str, Any]]


def live(answers: Answers) -> list[str]:
    """The command of a server that answers like this, by method, or by method and name or cursor.

    In what it says, `$NAME` is that variable of its environment.
    """
    Path("live.py").write_text(SCRIPT)
    Path("answers.json").write_text(json.dumps({"initialize": {"result": HANDSHAKE[1]["result"]}, **answers}))
    return ["--", sys.executable, "live.py", "answers.json"]


def tools(*listed: Lines, cursor: str | None = None) -> dict[str, Any]:
    return {"result": {"tools": list(listed), **({} if cursor is None else {"nextCursor": cursor})}}


def test_verify_finds_a_server_as_it_was(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE, *listing(3, tool("a"), tool("b")), *call(4))
    assert (
        cassette("verify", path, *live({"tools/list": tools(tool("a"), cursor="2"), "tools/list 2": tools(tool("b"))}))
        == 0
    )
    assert said(capsys) == "no change\n"


def test_verify_tells_what_a_server_no_longer_has(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE, *listing(3, tool("a"), tool("b")), *call(4), *call(5, server="other"))
    answers = {"tools/list": tools(tool("b", title="B"))}
    assert "2 servers; name one with --server: 'weather', 'other'" in refused(capsys, "verify", path, *live(answers))
    assert cassette("verify", path, "--server", "weather", *live(answers)) == 1
    told = said(capsys).splitlines()
    assert [one.partition(":")[0] for one in told[:2]] == ["breaking    tool a", "compatible  tool b at /title"]
    assert told[2:] == ["1 breaking change, 1 compatible"]
    assert cassette("verify", path, "--server", "weather", "--fail-on", "never", *live(answers)) == 0


def test_a_list_that_is_refused_now_is_a_breaking_change(path: Path, capsys: Captured) -> None:
    write(
        path,
        *HANDSHAKE,
        *listing(3, tool()),
        *[{"n": 4, "server": "weather", "request": "prompts/list"}, {"n": 4, "result": {"prompts": []}}],
    )
    assert cassette("verify", path, "--json", *live({"prompts/list": {"result": {"prompts": []}}})) == 1
    first, second = (json.loads(one) for one in said(capsys).splitlines())
    assert first == {
        "kind": "breaking",
        "server": "weather",
        "subject": "capability tools",
        "pointer": "",
        "detail": "tools/list is refused now: Method not found",
    }
    assert "tools are not compared" in second["detail"]


def test_a_server_that_turns_pages_for_ever_is_left_at_some_time(
    path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_intercept._cassette_cli.live._MOST_PAGES", 3)
    write(path, *HANDSHAKE, *listing(3, tool()))
    assert cassette("verify", path, *live({"tools/list": tools(tool(), cursor="again")})) == 0
    assert "tools are not compared" in said(capsys)


def test_verify_calls_only_what_only_reads_unless_it_is_told_to(path: Path, capsys: Captured) -> None:
    reading = tool("read", annotations={"readOnlyHint": True})
    done = {"result": {"content": [{"type": "text", "text": "done"}]}}
    question = {"server_request": "roots/list", "client_result": {"roots": []}}
    write(
        path,
        *HANDSHAKE,
        *listing(3, reading, tool("write")),
        *call(4, "read", city="Oslo"),
        *call(5, "read", {"content": [{"type": "text", "text": "before"}]}, city="Bergen"),
        *call(6, "write"),
        *call(7, "read", None, question, city="asks"),
        *call(8, "read", {"inputRequests": {"x": {"method": "roots/list"}}, "requestState": "recorded"}, city="asks"),
        {"n": 9, "server": "weather", "request": "tools/call", "params": {"name": "read", "inputResponses": {}}},
        {"n": 9, "result": {"content": []}},
        {"n": 10, "server": "weather", "request": "tools/call", "params": {"name": "read"}},
        {"n": 10, "cancelled": True},
        *call(11, "read", city={"$any": True}),
        *call(12, "read", cities=[{"city": "REDACTED"}]),
        {"n": 13, "server": "weather", "request": "tools/call", "params": {}},
        *call(14, "read", None, {"server_notification": "notifications/message", "params": {}}, city="Rome"),
    )
    answers: Answers = {"tools/list": tools(reading, tool("write")), "tools/call": done}
    assert cassette("verify", path, "--calls", *live(answers)) == 1
    assert said(capsys).splitlines() == [
        "changed     #5 -> #5 tools/call read (server weather)",
        '              /result/content/0/text: recorded "before", now "done"',
        "0 breaking changes, 0 compatible; 1 call changed",
        "3 calls made again",
        "1 call not made, as their tools do not say that they only read: #6 tools/call write",
        "3 calls not made, as the server would ask something: #7 tools/call read, #8 tools/call read, "
        "#9 tools/call read",
        "1 call not made, as they were not answered: #10 tools/call read",
        "2 calls not made, as not all that was sent is in the cassette: #11 tools/call read, #12 tools/call read",
    ]
    refusing: Answers = {**answers, "tools/call write": {"error": {"code": 1, "message": "no"}}}
    assert cassette("verify", path, "--all-calls", "--json", *live(refusing)) == 1
    values = [json.loads(one) for one in said(capsys).splitlines()]
    assert [(one["kind"], one["old"]) for one in values] == [("changed", 5), ("changed", 6)]
    assert cassette("verify", path, "--calls", "--fail-on", "breaking", *live(answers)) == 0


def test_an_answer_that_the_sdk_does_not_take_is_compared_all_the_same(path: Path, capsys: Captured) -> None:
    promised = tool("read", outputSchema={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    old = {"content": [], "structuredContent": {"a": "b"}}
    write(
        path, *HANDSHAKE, *listing(3, promised), *call(4, "read", old), *[one for n in range(5, 12) for one in call(n)]
    )
    answers: Answers = {
        "tools/list": tools(promised),
        "tools/call": {"result": {"content": [], "structuredContent": {"a": 1}}},
    }
    assert cassette("verify", path, "--all-calls", *live(answers)) == 1
    assert '/result/structuredContent/a: recorded "b", now 1' in said(capsys)
    assert cassette("verify", path, "--calls", *live(answers)) == 0
    assert said(capsys).endswith("#8 tools/call book, ...\n")


def test_a_server_that_cannot_be_talked_to_is_told_in_one_sentence(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE)
    error = refused(capsys, "verify", path, "--", "no-such-command-anywhere")
    assert error.startswith("mcp-intercept: the server cannot be talked to: FileNotFoundError: ")
    error = refused(capsys, "verify", path, "--url", "http://127.0.0.1:9/mcp")
    assert error == "mcp-intercept: the server cannot be talked to: ConnectError: All connection attempts failed\n"


@pytest.mark.parametrize("command", [["no-such-command-anywhere"], [sys.executable, "-c", ""]])
def test_nothing_is_said_of_a_file_that_nobody_knows(command: list[str], path: Path) -> None:
    write(path, *HANDSHAKE)
    done = subprocess.run([*COMMAND, "verify", path, "--", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    [only] = done.stderr.splitlines()
    assert only.startswith("mcp-intercept: the server cannot be talked to: ")


TOKEN = "tok-9f8e7d6c5b4a"


def whoami(text: str) -> Lines:
    return {"content": [{"type": "text", "text": text}]}


def test_verify_hands_variables_to_a_command_and_prints_none_of_them(
    path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_TOKEN", TOKEN)
    monkeypatch.setenv("NOT_HANDED", TOKEN)
    recorded = [
        whoami("I am REDACTED-DESK_TOKEN at prod-eu-1"),
        whoami("none"),
        whoami("kept at prod-eu-1"),
        whoami("$NOT_HANDED"),
    ]
    calls = [one for n, result in enumerate(recorded, 4) for one in call(n, f"who{n}", result)]
    write(path, *HANDSHAKE, *listing(3, tool()), *calls)
    command = live(
        {
            "tools/list": tools(tool(description="Of $DESK_TOKEN at $PLACE")),
            "tools/call who4": {"result": whoami("I am $DESK_TOKEN at $PLACE")},
            "tools/call who5": {"error": {"code": 1, "message": "$DESK_TOKEN is not known at $PLACE"}},
            "tools/call who6": {"result": whoami("gone from $PLACE")},
            "tools/call": {"result": whoami("$NOT_HANDED")},
        }
    )
    handed = ["--env", "DESK_TOKEN", "--env", "PLACE=prod-eu-1"]
    assert cassette("verify", path, "--all-calls", *handed, *command) == 1
    out = said(capsys)
    assert [one.strip() for one in out.splitlines()] == [
        'compatible  tool book at /description: description was nothing, is "Of REDACTED-DESK_TOKEN at REDACTED-PLACE"',
        "changed     #5 -> #5 tools/call who5 (server weather)",
        f"/result: recorded {json.dumps(whoami('none'))}, now (absent)",
        '/error: recorded (absent), now {"code": 1, "message": "REDACTED-DESK_TOKEN is not known at REDACTED-PLACE"}',
        "changed     #6 -> #6 tools/call who6 (server weather)",
        '/result/content/0/text: recorded "kept at REDACTED-PLACE", now "gone from REDACTED-PLACE"',
        "0 breaking changes, 1 compatible; 2 calls changed",
        "4 calls made again",
    ]
    assert cassette("verify", path, "--all-calls", "--json", *handed, *command) == 1
    assert not re.search(f"{TOKEN}|prod-eu-1", said(capsys))
    refusing = live({"tools/list": {"error": {"code": 1, "message": "$DESK_TOKEN is refused"}}})
    assert cassette("verify", path, *handed, *refusing) == 1
    assert "tools/list is refused now: REDACTED-DESK_TOKEN is refused" in said(capsys)
    silent = live({"initialize": {"error": {"code": 1, "message": "who is $DESK_TOKEN?\nwho?"}}})
    assert refused(capsys, "verify", path, *handed, *silent).endswith("Error: who is REDACTED-DESK_TOKEN?\n")


class Guarded(BaseHTTPRequestHandler):
    """A server that wants a token, and says what it got."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {TOKEN}" or self.headers["x-tenant"] != "acme/eu-prod-1":
            self.answer(401, {"error": "unauthorized"})
        elif asked["method"] == "initialize":
            self.answer(200, {"jsonrpc": "2.0", "id": asked["id"], "result": HANDSHAKE[1]["result"]})
        elif "id" in asked:
            said = f"For {self.headers['authorization']} at {self.headers['x-tenant'].partition('/')[2]}"
            listed = {"result": {"tools": [tool(description=said)]}}
            self.answer(200, {"jsonrpc": "2.0", "id": asked["id"], **listed})
        else:
            self.answer(202)

    def do_GET(self) -> None:
        self.answer(405)

    def answer(self, status: int, body: Any = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        pass


@contextmanager
def guarded() -> Generator[str, None, None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mcp"
        finally:
            server.shutdown()
            thread.join()


def test_verify_hands_headers_to_a_url_and_prints_none_of_them(
    path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, *HANDSHAKE, *listing(3, tool()))
    monkeypatch.setenv("TOKEN", f"{TOKEN}\n")
    monkeypatch.setenv("PLACE", "eu-prod-1")
    handed = ["--header", "Authorization: Bearer ${TOKEN}", "--header", "X-Tenant:acme/${PLACE}"]
    with guarded() as url:
        assert cassette("verify", path, "--url", url, *handed) == 0
        assert said(capsys).splitlines() == [
            "compatible  tool book at /description: "
            'description was nothing, is "For Bearer REDACTED-authorization at REDACTED-PLACE"',
            "0 breaking changes, 1 compatible",
        ]
        assert "cannot be talked to" in refused(capsys, "verify", path, "--url", url, *handed[2:])


@pytest.mark.parametrize(
    ("option", "given", "reason"),
    [
        ("--header", "hunter2xyz", "give a header as 'NAME: VALUE'"),
        ("--header", "Bearer hunter2xyz: x", "give a header as 'NAME: VALUE'"),
        ("--header", ": hunter2xyz", "give a header as 'NAME: VALUE'"),
        ("--header", "X-Key:", "the value of X-Key is missing"),
        ("--header", "X-Key: hunter2xyz\nX-Other: 1", "the value of X-Key is not one line of ASCII"),
        ("--header", "X-Key: hunter2xyz\u20ac", "the value of X-Key is not one line of ASCII"),
        ("--header", "X-Key: ${UNSET_TOKEN}hunter2xyz", "the environment variable 'UNSET_TOKEN' is not set, or empty"),
        ("--header", "X-Key: ${EMPTY_TOKEN}", "the environment variable 'EMPTY_TOKEN' is not set, or empty"),
        ("--env", "UNSET_TOKEN", "the environment variable 'UNSET_TOKEN' is not set"),
        ("--env", "hunter2xyz-1", "give the name of an environment variable, or NAME=VALUE"),
        ("--env", "=hunter2xyz", "give the name of an environment variable, or NAME=VALUE"),
    ],
)
def test_what_cannot_be_handed_is_refused_and_not_shown(
    option: str, given: str, reason: str, path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNSET_TOKEN", raising=False)
    monkeypatch.setenv("EMPTY_TOKEN", "")
    with pytest.raises(SystemExit, match="2"):
        cassette("verify", path, option, given)
    error = capsys.readouterr().err
    assert error.endswith(f"error: argument {option}: {reason}\n")
    assert "hunter2" not in error


def test_what_is_handed_has_to_go_with_the_server(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE)
    header, variable = ["--header", "X-Key: a"], ["--env", "KEY=a"]
    assert "--header goes with --url" in refused(capsys, "verify", path, *header, "--", "python")
    assert "--env goes with a command" in refused(capsys, "verify", path, *variable, "--url", "http://127.0.0.1:9/")
    for option in (header, variable):
        assert f"{option[0]} needs a server to compare with" in refused(capsys, "verify", path, *option)


def test_ctrl_c_ends_a_talk_to_a_server_quietly(path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    write(path, *HANDSHAKE)
    monkeypatch.setattr("mcp_intercept._cassette_cli.live._Live.run", interrupt)
    assert cassette("verify", path, "--", "x") == 130
    assert said(capsys) == ""


def test_the_innermost_reason_is_told(path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        error = ValueError()
        group = ValueError("outer")
        group.exceptions = (error,)  # type: ignore[attr-defined]
        raise group

    write(path, *HANDSHAKE)
    monkeypatch.setattr("mcp_intercept._cassette_cli.live._Live.run", fail)
    assert refused(capsys, "verify", path, "--", "x").endswith("the server cannot be talked to: ValueError\n")


@pytest.mark.skipif(LINE_1, reason="line 1 knows only the handshake")
def test_verify_speaks_as_it_was_spoken(path: Path, capsys: Captured) -> None:
    offers = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}
    discovered = {"result": {**offers, "ttlMs": 0, "cacheScope": "public"}}
    listed = {"tools": [tool()], "resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
    write(
        path,
        {"n": 1, "server": "weather", "request": "server/discover"},
        {"n": 1, **discovered},
        {"n": 2, "server": "weather", "request": "tools/list"},
        {"n": 2, "result": listed},
    )
    assert cassette("verify", path, *live({"server/discover": discovered, "tools/list": {"result": listed}})) == 0
    assert said(capsys) == "no change\n"


# --- serve on standard input and output ------------------------------------------------------------------------------


def exchange(*messages: Any, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> tuple[list[Any], str]:
    """What `serve` answers to messages, and what it reports."""
    texts = [one if isinstance(one, bytes) else json.dumps({"jsonrpc": "2.0", **one}).encode() for one in messages]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(texts) + b"\n")))
    assert cassette("serve", path) == 0
    out, error = capsys.readouterr()
    return [json.loads(one) for one in out.splitlines()], error


def request(request_id: int | str, name: str = "book", token: int | None = None, **arguments: Any) -> Lines:
    params: Lines = {"name": name, "arguments": arguments}
    if token is not None:
        params["_meta"] = {"progressToken": token}
    return {"id": request_id, "method": "tools/call", "params": params}


def test_serve_answers_as_the_server_did(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    progress = {"server_notification": "notifications/progress", "params": {"progress": 1}}
    changed = {"server_notification": "notifications/tools/list_changed"}
    roots = {"server_request": "roots/list", "client_result": {"roots": []}}
    write(path, *HANDSHAKE, *call(3, "book", None, progress, changed, roots, city="Oslo"))
    answers, error = exchange(
        {"id": 0, "method": "initialize", "params": HANDSHAKE[0]["params"]},
        {"method": "notifications/initialized"},
        b"  ",
        request("a", city="Oslo", token=7),
        {"id": "mcp-intercept-1", "result": {"roots": []}},
        {"id": 5, "method": "ping"},
        path=path,
        monkeypatch=monkeypatch,
        capsys=capsys,
    )
    assert answers == [
        {"jsonrpc": "2.0", "id": 0, "result": HANDSHAKE[1]["result"]},
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 7, "progress": 1}},
        {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
        {"jsonrpc": "2.0", "id": "mcp-intercept-1", "method": "roots/list"},
        {"jsonrpc": "2.0", "id": "a", "result": {"content": [{"type": "text", "text": "done"}]}},
        {"jsonrpc": "2.0", "id": 5, "result": {}},
    ]
    assert error == ""


def test_serve_reports_what_it_has_no_answer_to(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    write(path, *call(1, city="Oslo"))
    wanted = request(1, city="Rome")
    answers, error = exchange(wanted, wanted, path=path, monkeypatch=monkeypatch, capsys=capsys)
    assert [one["error"]["code"] for one in answers] == [-31404, -31404]
    assert error.count("No recorded answer to tools/call book") == 2
    assert error.count("way out   record it with use_cassette() where the server is, and serve that\n") == 2
    assert 'recorded "Oslo", now "Rome"' in error


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{", -32700),
        (b"\xff", -32700),
        (b"[]", -32600),
        (b'{"id":1}', -32600),
        (b'{"id":true,"method":"x"}', -32600),
        (b'{"id":1.5,"method":"x"}', -32600),
        (b'{"id":1,"method":1}', -32600),
        (b'{"id":1,"method":"x","params":[]}', -32600),
        (b'{"id":1,"result":1}', -32600),
        (b'{"result":{}}', -32600),
        (b'{"id":1,"error":"x"}', -32600),
    ],
)
def test_what_is_no_message_is_refused(
    text: bytes, code: int, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    write(path, *HANDSHAKE)
    unasked = {"id": 9, "error": {"code": 1, "message": "nobody has asked"}}
    answers, _ = exchange(text, unasked, {"id": 2, "method": "ping"}, path=path, monkeypatch=monkeypatch, capsys=capsys)
    assert [(one["id"], one.get("error", {}).get("code")) for one in answers] == [(None, code), (2, None)]


def test_serve_ends_where_the_server_did(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    write(path, *call(1)[:-1], {"n": 1, "closed": "end of stream"}, *call(2, "after"))
    answers, error = exchange(request(1), request(2, "after"), path=path, monkeypatch=monkeypatch, capsys=capsys)
    assert (answers, error) == ([], "")


def test_serve_knows_which_server_and_which_order(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    write(path, *call(1, city="Oslo"), *call(2, server="geo"))
    assert "2 servers" in refused(capsys, "serve", path)
    assert "no server 'x'" in refused(capsys, "serve", path, "--server", "x")
    text = json.dumps(request(1, city="Rome")).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert cassette("serve", path, "--server", "weather", "--order", "tool") == 0
    out, error = capsys.readouterr()
    assert "result" in json.loads(out)
    assert error.startswith("#1 tools/call book (server weather)")


def test_who_waits_in_vain_is_refused_and_ctrl_c_is_quiet(path: Path) -> None:
    write(path, *call(1)[:-1], {"n": 1, "cancelled": True}, *call(2, "other"))
    with subprocess.Popen(
        [*COMMAND, "serve", path, "--patience", "0.2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        for asked in (request(1), request(2, "other")):  # each begins the wait again
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [(one["id"], one.get("error", {}).get("code")) for one in answers] == [(2, None), (1, -31404)]
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
        assert process.wait(30) == 130
        assert b"left waiting" in error
        assert b"Traceback" not in error


def test_an_answer_does_not_come_together_with_the_progress_before_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    progress = {"server_notification": "notifications/progress", "params": {"progress": 1}}
    said = {"server_notification": "notifications/message", "params": {"level": "info", "data": "half"}}
    write(path, *call(1, "talk", None, progress, said), *call(2, "other", None, said))
    pauses: list[float] = []
    monkeypatch.setattr("mcp_intercept._cassette_cli.serve.sleep", pauses.append)
    asked = [request(1, "talk", token=1), request(2, "other", token=2), request(3, "never")]
    answers, _ = exchange(*asked, path=path, monkeypatch=monkeypatch, capsys=capsys)
    assert [one.get("id") for one in answers] == [None, None, 1, None, 2, 3]
    assert [pause > 0 for pause in pauses] == [False, False, True, False, False, False]


@pytest.mark.anyio
async def test_clients_of_the_sdk_are_served_over_stdio(path: Path) -> None:
    recorded_on_its_own(path)
    await use(path, [*COMMAND, "serve", str(path)])


def recorded_on_its_own(path: Path) -> None:
    """What `use` asks, as the server of the tests answers it."""
    progress = [
        {"server_notification": "notifications/progress", "params": {"progress": step, "total": 2}} for step in (1, 2)
    ]
    question = {
        "server_request": "elicitation/create",
        "params": {
            "message": "How many?",
            "requestedSchema": {"type": "object", "properties": {"number": {"type": "integer"}}},
        },
        "client_result": {"action": "accept", "content": {"number": 3}},
    }
    write(
        path,
        *HANDSHAKE,
        *listing(3, tool("steps"), tool("ask")),
        *call(4, "steps", None, *progress, count=2),
        *call(5, "ask", None, question),
    )


async def use(path: Path, target: Any, mode: Any = "legacy") -> None:
    """Talk to a server that plays it."""

    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"number": 3})

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total))

    steps: list[Any] = []
    with anyio.fail_after(30):
        async with connect(target, elicitation_callback=answer, mode=mode) as session:
            assert [one.name for one in (await session.list_tools()).tools] == ["steps", "ask"]
            await session.call_tool("steps", {"count": 2}, progress_callback=note)
            assert steps == [(1, 2), (2, 2)]
            result: Any = await session.call_tool("ask", {})
            assert result.content[0].text == "done"
            with pytest.raises(line.Error, match="No recorded answer to tools/call nothing"):
                await session.call_tool("nothing", {})


# --- serve as HTTP ---------------------------------------------------------------------------------------------------

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvicorn runs on nothing else

MODERN = {"mcp-protocol-version": "2026-07-28"}


@asynccontextmanager
async def running(
    path: Path, patience: float = 30, order: Any = "any", host: str = "127.0.0.1"
) -> AsyncGenerator[tuple[Any, Any], None]:
    """A server that plays the cassette, behind a client for it."""
    with served(path, None, order, patience) as what:
        server, url = listen(what, host, 0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            url = url.replace("0.0.0.0", "127.0.0.1")
            async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
                yield client, server
            server.should_exit = True


@asynccontextmanager
async def serving(path: Path, **options: Any) -> AsyncGenerator[Any, None]:
    """The client alone."""
    async with running(path, **options) as (client, _):
        yield client


async def post(client: Any, message: Any, **headers: str) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("", json={"jsonrpc": "2.0", **message}, headers=given)


async def begin(client: Any) -> str:
    """Begin a session; the value is its id."""
    response = await post(client, {"id": 0, "method": "initialize", "params": HANDSHAKE[0]["params"]})
    assert response.status_code == 200
    session_id: str = response.headers["mcp-session-id"]
    response = await post(client, {"method": "notifications/initialized"}, mcp_session_id=session_id)
    assert (response.status_code, response.content) == (202, b"")
    return session_id


def events(text: str) -> list[Any]:
    return [json.loads(one.removeprefix("data: ")) for one in text.splitlines() if one.startswith("data: ")]


async def next_event(lines: Any) -> Any:
    with anyio.fail_after(60):
        while not (text := await anext(lines)).startswith("data: "):
            pass
    return json.loads(text.removeprefix("data: "))


@on_asyncio
@pytest.mark.anyio
async def test_several_clients_of_the_sdk_are_served_over_http(path: Path, capsys: Captured) -> None:
    recorded_on_its_own(path)
    async with serving(path) as client, anyio.create_task_group() as tasks:
        url = str(client.base_url).rstrip("/")
        for mode in ("legacy", "auto", "legacy"):
            tasks.start_soon(use, path, url, mode)
    assert capsys.readouterr().err.count("No recorded answer to tools/call nothing") == 3


@pytest.mark.skipif(LINE_1, reason="of line 2")
@on_asyncio
@pytest.mark.anyio
async def test_clients_of_protocol_2026_07_28_are_served_what_was_recorded_before_it(path: Path) -> None:
    recorded_on_its_own(path)

    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"number": 3})

    from mcp import Client

    async with serving(path) as client:
        for _ in range(3):  # what is used up begins again
            with anyio.fail_after(60):
                async with Client(
                    str(client.base_url).rstrip("/"), mode="2026-07-28", elicitation_callback=answer
                ) as session:
                    assert session.protocol_version == "2026-07-28"
                    steps: list[float] = []

                    async def note(progress: float, total: float | None, message: str | None) -> None:
                        steps.append(progress)  # noqa: B023 - called within the iteration

                    await session.call_tool("steps", {"count": 2}, progress_callback=note)
                    assert steps == [1, 2]
                    result: Any = await session.call_tool("ask", {})
                    assert result.content[0].text == "done"


@on_asyncio
@pytest.mark.anyio
async def test_an_answer_alone_is_json_and_with_more_a_stream(path: Path) -> None:
    changed = {"server_notification": "notifications/tools/list_changed"}
    late = {"n": 4, "server_notification": "notifications/prompts/list_changed"}
    write(path, *HANDSHAKE, *call(3), *call(4, "more", None, changed), late)
    async with serving(path) as client:
        session_id = await begin(client)
        alone = await post(client, request(1), mcp_session_id=session_id)
        assert alone.headers["content-type"] == "application/json"
        assert alone.json()["id"] == 1
        more = await post(client, request("two", "more"), mcp_session_id=session_id)
        assert more.headers["content-type"] == "text/event-stream"
        assert [one.get("method") or one["id"] for one in events(more.text)] == [changed["server_notification"], "two"]
        async with client.stream("GET", "", headers={"mcp-session-id": session_id}) as rest:
            # What came below the answer belongs to no request.
            assert (await next_event(rest.aiter_lines()))["method"] == late["server_notification"]


@on_asyncio
@pytest.mark.anyio
async def test_what_belongs_to_no_request_comes_on_a_stream_of_its_own(path: Path) -> None:
    roots = {"server_request": "roots/list", "client_result": {"roots": []}}
    then = {"server_notification": "notifications/tools/list_changed"}
    write(path, *HANDSHAKE, {"n": 2, **roots}, {"n": 2, **then})
    async with serving(path) as client:
        session_id = await begin(client)
        headers = {"mcp-session-id": session_id}
        async with client.stream("GET", "", headers=headers) as rest:
            lines = rest.aiter_lines()
            asked = await next_event(lines)
            assert asked["method"] == "roots/list"
            assert (await client.get("", headers=headers)).status_code == 409
            response = await post(client, {"id": asked["id"], "result": {"roots": []}}, mcp_session_id=session_id)
            assert response.status_code == 202
            assert (await next_event(lines))["method"] == then["server_notification"]
        with anyio.fail_after(60):
            # Whoever has left may come again, as soon as that was noticed.
            while True:
                async with client.stream("GET", "", headers=headers) as again:
                    if again.status_code == 200:
                        break
        assert (await client.delete("", headers=headers)).status_code == 200
        for response in (
            await client.delete("", headers=headers),
            await client.get("", headers=headers),
            await post(client, request(1), mcp_session_id=session_id),
        ):
            assert response.status_code == 404


@on_asyncio
@pytest.mark.anyio
async def test_what_is_not_as_it_should_be_is_refused(path: Path) -> None:
    write(path, *HANDSHAKE, *call(3)[:-1], {"n": 3, "cancelled": True})
    async with serving(path) as client:
        refusals = [
            await post(client, request(1)),
            await client.post("", content=b"{", headers={"content-type": "application/json"}),
            await client.post("", json=[]),
            await client.get(""),
            await client.put(""),
            await client.get(str(client.base_url).replace("/mcp", "/other")),
            await client.get("", headers={"host": "evil.example"}),
            await client.get("", headers={"origin": "http://evil.example"}),
            await client.post("", content=b"{}", headers={"content-type": "text/plain"}),
            await post(client, {"id": 1, "result": {}}, **MODERN),
        ]
        assert [one.status_code for one in refusals] == [400, 400, 400, 405, 405, 404, 421, 403, 400, 400]
        assert refusals[1].json()["error"]["code"] == -32700
        assert (await post(client, {"method": "notifications/x"}, **MODERN)).status_code == 202
        session_id = await begin(client)
        answers: list[Any] = []
        answered = anyio.Event()

        async def ask() -> None:
            answers.append(await post(client, request(1), mcp_session_id=session_id))
            answered.set()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                # One of them waits for its answer, so that the other has an id that is taken.
                tasks.start_soon(ask)
                tasks.start_soon(ask)
                await answered.wait()
                for about in ([1], 1):
                    cancelled = {"method": "notifications/cancelled", "params": {"requestId": about}}
                    await post(client, cancelled, mcp_session_id=session_id)
        assert [one.status_code for one in answers] == [400, 202]


@on_asyncio
@pytest.mark.anyio
async def test_an_answer_over_http_does_not_come_together_with_the_progress_before_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = {"server_notification": "notifications/progress", "params": {"progress": 1}}
    write(path, *HANDSHAKE, *call(3, "talk", None, progress))
    waited: list[bool] = []
    before = Pace.before

    def noted(self: Pace, frame: Frame) -> float:
        waited.append(before(self, frame) > 0)
        return 0

    monkeypatch.setattr(Pace, "before", noted)
    async with serving(path) as client:
        await post(client, request(1, "talk", token=1), mcp_session_id=await begin(client))
    assert waited == [False, True]


@on_asyncio
@pytest.mark.anyio
@pytest.mark.parametrize("way", ["deleted", "too many sessions", "the server ends"])
async def test_who_waits_in_a_session_that_ends_is_told(path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_intercept._cassette_cli.http_app.MOST_SESSIONS", 1)
    said = {"server_notification": "notifications/message", "params": {"level": "info", "data": "half"}}
    write(path, *HANDSHAKE, *call(3, "book", None, said)[:-1], {"n": 3, "cancelled": True})
    async with running(path) as (client, server):
        headers = {"mcp-session-id": await begin(client)}
        async with client.stream("POST", "", json={"jsonrpc": "2.0", **request(1)}, headers=headers) as answer:
            lines = answer.aiter_lines()
            assert (await next_event(lines))["method"] == "notifications/message"
            if way == "deleted":
                await client.delete("", headers=headers)
            elif way == "too many sessions":
                await begin(client)
            else:
                server.should_exit = True
            told = await next_event(lines)
    assert (told["id"], told["error"]["code"]) == (1, -32000)
    assert way in told["error"]["message"]


@on_asyncio
@pytest.mark.anyio
async def test_the_session_that_was_silent_longest_ends_for_one_that_is_too_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_intercept._cassette_cli.http_app.MOST_SESSIONS", 2)
    write(path, *HANDSHAKE)
    ping = {"id": 1, "method": "ping"}
    async with serving(path) as client:
        first, second = await begin(client), await begin(client)
        assert (await post(client, ping, mcp_session_id=first)).status_code == 200
        third = await begin(client)
        statuses = [(await post(client, ping, mcp_session_id=one)).status_code for one in (first, second, third)]
    assert statuses == [200, 404, 200]


@on_asyncio
@pytest.mark.anyio
async def test_a_message_that_is_too_long_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_intercept._cassette_cli.http_app.MOST_BYTES", 300)
    write(path, *HANDSHAKE)
    ping = {"id": 1, "method": "ping"}
    async with serving(path) as client:
        session_id = await begin(client)
        statuses = [
            (await post(client, {**ping, "params": {"_meta": {"x": "x" * n}}}, mcp_session_id=session_id)).status_code
            for n in (10, 300, 3_000_000, 10)
        ]
    assert statuses == [200, 413, 413, 200]


@on_asyncio
@pytest.mark.anyio
async def test_what_is_no_version_of_the_protocol_is_refused(path: Path) -> None:
    write(path, *HANDSHAKE)
    ping = {"id": 1, "method": "ping"}
    async with serving(path) as client:
        session_id = await begin(client)
        for headers in ({}, {"mcp_session_id": session_id}):
            answer = await post(client, ping, mcp_protocol_version="nonsense", **headers)
            assert (answer.status_code, answer.json()["id"]) == (400, 1)
            assert answer.json()["error"]["code"] == -32022
            supported = {"supported": ["2026-07-28", "2025-11-25"], "requested": "nonsense"}
            assert answer.json()["error"]["data"] == supported
        answer = await post(client, ping, mcp_protocol_version="2025-11-25", mcp_session_id=session_id)
        assert answer.status_code == 200


@on_asyncio
@pytest.mark.anyio
async def test_streams_are_kept_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_intercept._cassette_cli.http_app.SECONDS_TO_COMMENT", 0.01)
    write(path, *HANDSHAKE, *call(3)[:-1], {"n": 3, "cancelled": True})
    async with serving(path, patience=0.2) as client:
        session_id = await begin(client)
        with anyio.fail_after(60):
            async with client.stream("GET", "", headers={"mcp-session-id": session_id}) as rest:
                lines = rest.aiter_lines()
                assert [await anext(lines) for _ in range(6)] == [": ", ""] * 3
            # Where there is no stream yet, there is nothing to keep open.
            answer = await post(client, request(1), mcp_session_id=session_id)
            assert answer.json()["error"]["data"]["reason"] == "left waiting"


@on_asyncio
@pytest.mark.anyio
async def test_who_waits_in_vain_over_http_is_refused(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE, *call(3)[:-1], {"n": 3, "cancelled": True})
    async with serving(path, patience=0.1) as client:
        session_id = await begin(client)
        for headers in ({"mcp_session_id": session_id}, MODERN):
            answer = await post(client, request(1), **headers)
            assert answer.json()["error"]["data"]["reason"] == "left waiting"
    assert capsys.readouterr().err.count("left waiting") == 2


@on_asyncio
@pytest.mark.anyio
async def test_a_connection_that_ended_is_answered_for(path: Path) -> None:
    write(path, *HANDSHAKE, *call(3)[:-1], {"n": 3, "closed": "end of stream"}, *call(4, "other"))
    async with serving(path) as client:
        session_id = await begin(client)
        answer = await post(client, request(1), mcp_session_id=session_id)
        assert answer.json()["error"]["message"] == "Connection closed, as it was then: end of stream"
        assert (await post(client, request(2), mcp_session_id=session_id)).status_code == 404
        answer = await post(client, request(1), **MODERN)
        assert answer.json()["error"]["code"] == -32000
        assert "result" in (await post(client, request(2, "other"), **MODERN)).json()


@on_asyncio
@pytest.mark.anyio
async def test_a_connection_that_ended_by_itself_is_nobodys_answer(path: Path) -> None:
    roots = {"server_request": "roots/list", "client_result": {"roots": []}}
    write(path, *HANDSHAKE, *call(3, "ask", None, roots)[:-1], {"n": 3, "closed": "end of stream"})
    async with serving(path) as client:
        session_id = await begin(client)
        headers = {"mcp-session-id": session_id}
        async with client.stream("POST", "", json={"jsonrpc": "2.0", **request(1, "ask")}, headers=headers) as answer:
            lines = answer.aiter_lines()
            asked = await next_event(lines)
            await post(client, {"id": asked["id"], "result": {"roots": []}}, mcp_session_id=session_id)
            assert (await next_event(lines))["error"]["code"] == -32000


@on_asyncio
@pytest.mark.anyio
async def test_each_session_has_all_answers_or_those_of_its_connection(path: Path) -> None:
    second = [{**one, "connection": 2} if "server" in one else one for one in call(4, "who", {"content": ["second"]})]
    write(path, *HANDSHAKE, *call(3, "who", {"content": ["first"]}), *second)

    async def who(client: Any) -> Any:
        answer = await post(client, request(1, "who"), mcp_session_id=await begin(client))
        return answer.json()["result"]["content"]

    async with serving(path) as client:
        assert [await who(client) for _ in range(4)] == [["first"], ["second"], ["first"], ["second"]]


@on_asyncio
@pytest.mark.anyio
async def test_requests_without_a_session_begin_again_when_all_is_used_up(path: Path, capsys: Captured) -> None:
    write(path, *call(1, "a", {"content": [1]}), *call(2, "a", {"content": [2]}), *call(3, "b"))
    async with serving(path) as client:
        answers = [(await post(client, request(5, "a"), **MODERN)).json() for _ in range(60)]
        assert [one["result"]["content"] for one in answers] == [[1], [2]] * 30
        assert {one["id"] for one in answers} == {5}
        miss = await post(client, request(6, "never"), **MODERN)
        assert (miss.status_code, miss.json()["error"]["code"]) == (200, -31404)
    error = capsys.readouterr().err
    assert error.count("No recorded answer") == 1
    async with serving(path, order="strict") as client:
        asked = ["a", "a", "a", "b", "a"]
        answers = [(await post(client, request(7, name), **MODERN)).json() for name in asked]
        assert ["result" in one for one in answers] == [True, True, False, True, True]


@on_asyncio
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [("http://localhost:6274", True), ("https://localhost", True), ("http://localhost.evil", False)],
)
async def test_pages_of_this_machine_may_be_clients(origin: str, is_allowed: bool, path: Path) -> None:
    write(path, *HANDSHAKE)
    async with serving(path) as client:
        wanted = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-a"}
        preflight = await client.options("", headers=wanted)
        assert (preflight.status_code == 200) == is_allowed
        answer = await post(client, {"id": 0, "method": "initialize", "params": {}}, origin=origin)
        assert answer.status_code == (200 if is_allowed else 403)
        assert answer.headers.get("access-control-allow-origin") == (origin if is_allowed else None)


@on_asyncio
@pytest.mark.anyio
async def test_names_that_lead_to_this_machine_by_chance_are_not_taken(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE)
    begun = {"id": 0, "method": "initialize", "params": {}}
    names = ["localhost", "127.0.0.1:80", "[::1]:1", "localhost.evil", "127.0.0.1:evil", "evil.example:80"]
    async with serving(path) as client:
        assert [(await post(client, begun, host=name)).status_code for name in names] == [200] * 3 + [421] * 3
    async with serving(path, host="0.0.0.0") as client:
        # Under which names others reach it, it cannot know; but it has no pages.
        assert [(await post(client, begun, host=name)).status_code for name in names] == [200] * 6
        for origin, status in (("http://localhost:1", 200), ("http://evil.example:80", 403), ("null", 403)):
            answer = await post(client, begun, host="evil.example:80", origin=origin)
            assert answer.status_code == status


@on_asyncio
@pytest.mark.anyio
async def test_a_method_that_is_not_there_is_404_without_a_session(path: Path) -> None:
    write(path, *HANDSHAKE)
    async with serving(path) as client:
        answer = await post(client, {"id": 1, "method": "server/discover"}, **MODERN)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)


@on_asyncio
@pytest.mark.anyio
async def test_questions_of_then_are_asked_in_answers_and_told_apart(path: Path, capsys: Captured) -> None:
    question = {"server_request": "roots/list", "client_result": {"roots": []}}
    write(path, *call(1, "ask", None, question))
    modern = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}

    def ask(**more: Any) -> Lines:
        return {"id": 1, "method": "tools/call", "params": {"name": "ask", "arguments": {}, **modern, **more}}

    async with serving(path) as client:
        # Two clients, who know nothing of each other; the second finds it used up, and begins again.
        asked = [(await post(client, ask(), **MODERN)).json()["result"] for _ in range(2)]
        assert asked[0]["inputRequests"] == asked[1]["inputRequests"]
        assert asked[0]["requestState"] != asked[1]["requestState"]
        [key] = asked[0]["inputRequests"]
        for one in (asked[1], asked[0]):
            again = ask(requestState=one["requestState"], inputResponses={key: {"roots": []}})
            answer = await post(client, again, **MODERN)
            assert answer.json()["result"]["content"] == [{"type": "text", "text": "done"}]
        gone = await post(client, ask(requestState="99/mcp-intercept-1", inputResponses={}), **MODERN)
        assert gone.json()["error"]["data"]["reason"] == "arguments differ"


@on_asyncio
@pytest.mark.anyio
async def test_rounds_of_several_clients_are_told_apart(path: Path) -> None:
    asking = {
        "inputRequests": {"q": {"method": "roots/list"}},
        "resultType": "input_required",
        "requestState": "recorded",
    }
    answers: Lines = {"inputResponses": {"q": {"roots": []}}}

    def ask(n: int, result: Any, **more: Any) -> list[Lines]:
        params = {"name": "ask", "arguments": {}, **more}
        return [{"n": n, "server": "weather", "request": "tools/call", "params": params}, {"n": n, "result": result}]

    again = {**asking, "inputRequests": {"q": {"method": "roots/list", "params": {"again": True}}}}
    done = {"content": [], "resultType": "complete"}
    write(path, *ask(1, asking), *ask(2, again, **answers), *ask(3, done, **answers))
    state: Lines = {}
    async with serving(path) as client:

        async def round_of(who: int, **more: Any) -> Any:
            params = {"name": "ask", "arguments": {}, "requestState": state.get(str(who)), **more}
            answer = await post(client, {"id": 1, "method": "tools/call", "params": params}, **MODERN)
            result = answer.json()["result"]
            state[str(who)] = result.pop("requestState", None)
            return result

        rounds = [await round_of(who, **more) for more in ({}, answers, answers) for who in range(3)]
    for one in (asking, again):
        del one["requestState"]
    assert rounds == [one for one in (asking, again, done) for _ in range(3)]


@on_asyncio
@pytest.mark.anyio
async def test_a_subscription_is_a_stream_until_the_client_leaves(path: Path) -> None:
    changed = {"server_notification": "notifications/tools/list_changed", "params": {"a": 1}}
    other = {"server_notification": "notifications/message", "params": {"_meta": {"b": 2}}}
    write(
        path,
        {"n": 1, "server": "weather", "request": "subscriptions/listen", "params": {"c": 3}},
        {"n": 1, **changed},
        {"n": 1, **other},
        {"n": 1, "cancelled": True},
    )
    asked = {"jsonrpc": "2.0", "id": "mine", "method": "subscriptions/listen", "params": {"c": 3}}
    async with serving(path) as client:
        async with client.stream("POST", "", json=asked, headers=MODERN) as answer:
            lines = answer.aiter_lines()
            told = [await next_event(lines), await next_event(lines)]
        subscription = {"io.modelcontextprotocol/subscriptionId": "mine"}
        assert [one["params"] for one in told] == [{"a": 1, "_meta": subscription}, {"_meta": {"b": 2, **subscription}}]
        # And once more, since that is over.
        async with client.stream("POST", "", json=asked, headers=MODERN) as answer:
            assert (await next_event(answer.aiter_lines()))["params"]["_meta"] == subscription


@on_asyncio
@pytest.mark.anyio
async def test_streams_do_not_keep_a_server_from_ending(path: Path) -> None:
    write(path, *HANDSHAKE)
    with anyio.fail_after(60):
        async with serving(path) as client:
            headers = {"mcp-session-id": await begin(client)}
            stream = client.stream("GET", "", headers=headers)
            response = await stream.__aenter__()
            lines = response.aiter_lines()
            assert await anext(lines) == ": "
        with suppress(httpx.HTTPError, RuntimeError):
            await stream.__aexit__(None, None, None)


def test_serve_prints_its_url_and_ends_with_ctrl_c(path: Path) -> None:
    recorded_on_its_own(path)
    with subprocess.Popen(
        [*COMMAND, "serve", path, "--http", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/mcp", url)
        anyio.run(use, path, url)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
        assert process.wait(30) == 130
        assert "Traceback" not in error
        assert "No recorded answer to tools/call nothing" in error


def test_a_port_that_is_taken_or_none_is_refused(path: Path, capsys: Captured) -> None:
    write(path, *HANDSHAKE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = refused(capsys, "serve", path, "--http", taken.getsockname()[1])
        assert "in use" in error
    for port in ("x", "-1", "65536"):
        with pytest.raises(SystemExit, match="2"):
            cassette("serve", path, f"--http={port}")
    assert "a port from 1 to 65535" in capsys.readouterr().err


def test_to_listen_for_others_is_told(path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, *HANDSHAKE)
    listened: list[Any] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server: listened.append(server._listener))
    assert cassette("serve", path, "--http", "0", "--host", "0.0.0.0") == 0
    assert "everybody who can reach 0.0.0.0" in capsys.readouterr().err
    if socket.has_ipv6:
        assert cassette("serve", path, "--http", "0", "--host", "::1") == 0
        assert capsys.readouterr().out.startswith("http://[::1]:")
    for one in listened:
        one.close()


# --- schema ----------------------------------------------------------------------------------------------------------


def test_the_schema_that_ships_is_the_one_that_is_printed(capsys: Captured) -> None:
    assert cassette("schema") == 0
    shipped = Path(recording.__file__).parent / "cassette.schema.json"
    assert said(capsys) == schema_text() == shipped.read_text()
    assert json.loads(shipped.read_text())["$schema"] == "https://json-schema.org/draft/2020-12/schema"
