"""What cassettes do in the corners that no ordinary session comes to."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import AbstractAsyncContextManager, closing
from contextvars import copy_context
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import mcp.types as types
import pytest

from mcp_intercept import connect, intercept, use_cassette
from mcp_intercept._cassette_middleware import CassetteMiddleware
from mcp_intercept._current import current_cassette
from mcp_intercept._sdk.framing import frame_from, item_from
from mcp_intercept._tape import noted, played
from mcp_intercept.errors import CassetteDriftError, CassetteFormatError, CassetteMissError, CassetteWarning
from mcp_intercept.recording import MISS_CODE, Interaction, Redaction, Redactor
from mcp_intercept.recording.compatibility import compare
from mcp_intercept.recording.eras import initialize_result
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.journal import Journal, journal_of
from mcp_intercept.recording.matching import Rules, shown
from mcp_intercept.recording.misses import Source
from mcp_intercept.recording.played import Closed, PlayedConnection
from mcp_intercept.recording.player import Player
from mcp_intercept.recording.recorder import Recorder
from mcp_intercept.recording.recovery import recover
from mcp_intercept.recording.store import CassetteFile, lines_of, write_cassette
from mcp_intercept.recording.stored import SideFiles, files_in
from mcp_intercept.recording.surface import Surface
from mcp_intercept.recording.values import canonical
from mcp_intercept.recording.verifier import Verifier
from mcp_intercept.testing import ScriptedServer
from tests.wire import wire

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:nothing has passed")]

NOBODY = ["nobody-is-there"]


def interaction(
    n: int, method: str, params: dict[str, Any] | None, *events: dict[str, Any], **more: Any
) -> Interaction:
    kind: Any = "request" if events else "notification"
    return Interaction(
        n=n,
        server=more.get("server", "s"),
        connection=more.get("connection", 1),
        kind=kind,
        method=method,
        params=params,
        events=list(events),
    )


def cassette_of(path: Path, *interactions: Interaction) -> CassetteFile:
    write_cassette(path, lines_of(interactions, SideFiles(path)))
    return CassetteFile(path)


class Peer:
    """A client of a cassette, at the level of messages."""

    def __init__(self, file: CassetteFile | None, path: Path, **rules: Any) -> None:
        redactor = Redactor(Redaction(defaults=False))
        self.player = Player(file, Rules(**rules), redactor, Source(path=path, mode="none"))
        self.got: list[Frame | Closed] = []
        self.connection = PlayedConnection(self.player, "s", self.got.append)

    def __call__(self, *frames: Frame) -> list[Frame | Closed]:
        self.got.clear()
        for frame in frames:
            self.connection.take(frame)
        return [*self.got]


def call(request_id: int, name: str = "t", **params: Any) -> Frame:
    return Frame(request_id, "tools/call", {"name": name, **params})


# Messages.


def test_what_is_no_message_is_none() -> None:
    assert frame_from(ValueError("a failure of the transport")) is None


def test_models_of_other_classes_are_messages_too() -> None:
    from mcp_intercept._sdk import line

    class Request(types.JSONRPCRequest):
        pass

    class Response(types.JSONRPCResponse):
        pass

    request = Request(jsonrpc="2.0", id=1, method="ping")
    response = Response(jsonrpc="2.0", id=1, result={"a": 1})
    assert frame_from(line.item_of(request)) == Frame(1, "ping")
    assert frame_from(line.item_of(response)) == Frame(1, result={"a": 1})


def test_what_cannot_be_written_as_json_is_told() -> None:
    with pytest.raises(ValueError, match="no JSON: TypeError"):
        canonical({"a": object()})
    assert shown(object()) == "(object)"


# What a server did, done again.


def test_a_request_that_was_withdrawn_is_withdrawn_again_and_one_that_was_never_answered_is_only_asked(
    tmp_path: Path,
) -> None:
    asked = {"server_request": "elicitation/create", "params": {"message": "?"}}
    first = interaction(1, "tools/call", {"name": "a"}, {**asked, "withdrawn": True}, {"result": {}})
    second = interaction(2, "tools/call", {"name": "b"}, asked, {"result": {}})
    file = cassette_of(tmp_path / "x.mcp.jsonl", first, second)
    peer = Peer(file, file.path)
    question, withdrawal, result = peer(call(1, "a"))
    assert isinstance(question, Frame)
    assert withdrawal == Frame(method="notifications/cancelled", params={"requestId": question.id})
    assert result == Frame(1, result={})
    question, result = peer(call(2, "b"))
    assert (isinstance(question, Frame) and question.method, result) == ("elicitation/create", Frame(2, result={}))
    modern = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    again = Peer(file, file.path)
    assert again(call(1, "a", **modern)) == [Frame(1, result={"resultType": "complete"})]
    file.close()


def test_progress_is_reported_only_to_who_asks_and_a_connection_ends_where_it_ended(tmp_path: Path) -> None:
    told = {"server_notification": "notifications/progress", "params": {"progress": 1}}
    gone = interaction(1, "tools/call", {"name": "t"}, told, {"closed": "end of stream"})
    file = cassette_of(tmp_path / "x.mcp.jsonl", gone)
    assert Peer(file, file.path)(call(1)) == [Closed("end of stream")]
    reported, ended = Peer(file, file.path)(call(1, _meta={"progressToken": 7}))
    assert isinstance(reported, Frame)
    assert (reported.params, ended) == ({"progressToken": 7, "progress": 1}, Closed("end of stream"))
    file.close()


def test_what_a_client_says_late_or_to_nobody_is_let_pass(tmp_path: Path) -> None:
    file = cassette_of(tmp_path / "x.mcp.jsonl", interaction(1, "ping", None, {"result": {}}))
    peer = Peer(file, file.path)
    assert peer(Frame("who", result={}), Frame(None, "notifications/cancelled", {"requestId": 9})) == []
    peer.player.has_ended = True
    [late] = peer(Frame(None, "notifications/initialized"), Frame(1, result={}), Frame(2, "ping"))
    assert isinstance(late, Frame)
    assert late.error is not None
    assert late.error["code"] == MISS_CODE
    file.close()


def test_a_refused_question_of_a_later_protocol_is_told_as_an_answer_that_differs(tmp_path: Path) -> None:
    asked_for = {"q": {"method": "roots/list"}, "r": {"method": "roots/list"}}
    question = {"resultType": "input_required", "inputRequests": asked_for, "requestState": "s"}
    file = cassette_of(
        tmp_path / "x.mcp.jsonl",
        interaction(1, "tools/call", {"name": "t"}, {"result": question}),
        interaction(2, "tools/call", {"name": "t", "inputResponses": {"q": {"roots": []}}}, {"result": {}}),
    )
    peer = Peer(file, file.path)
    peer(Frame(1, "initialize", {"protocolVersion": "2025-11-25"}))
    asked, other = peer(call(2))
    assert isinstance(asked, Frame)
    assert isinstance(other, Frame)
    assert peer(Frame(other.id, result={"roots": []})) == []
    [refused] = peer(Frame(asked.id, error={"code": 1, "message": "no"}))
    assert isinstance(refused, Frame)
    assert "arguments differ" in str(refused.error)
    file.close()


def test_lists_go_on_giving_the_last_answer_of_their_connection_or_else_of_any(tmp_path: Path) -> None:
    pages = [{"result": {"tools": [name]}} for name in "abc"]
    file = cassette_of(
        tmp_path / "x.mcp.jsonl",
        interaction(1, "tools/list", None, pages[0]),
        interaction(2, "tools/list", None, pages[1]),
        interaction(3, "tools/list", None, pages[2], connection=2),
    )
    first = Peer(file, file.path)
    second = PlayedConnection(first.player, "s", first.got.append)
    third = PlayedConnection(first.player, "s", first.got.append)
    given: list[Any] = []
    for connection in (first.connection, first.connection, first.connection, second, second, third):
        first.got.clear()
        connection.take(Frame(1, "tools/list"))
        [frame] = first.got
        given.append(frame.result["tools"][0] if isinstance(frame, Frame) and frame.result else frame)
    assert given == ["a", "b", "b", "c", "c", "c"]
    file.close()


def test_a_placeholder_is_used_up_as_well(tmp_path: Path) -> None:
    either = interaction(1, "tools/call", {"name": "t", "arguments": {"n": 1}}, {"result": {"n": 1}})
    path = tmp_path / "x.mcp.jsonl"
    cassette_of(path, either).close()
    path.write_text(path.read_text().replace('"arguments":{"n":1}', '"arguments":{"n":{"$any":true}}'))
    file = CassetteFile(path)
    peer = Peer(file, path)
    assert peer(call(1, arguments={"n": 5})) == [Frame(1, result={"n": 1})]
    peer(call(2, arguments={"n": 6}))
    assert [miss.reason for miss in peer.player.misses] == ["used up"]
    file.close()


def test_in_the_order_of_a_tool_what_was_given_already_is_not_given_again(tmp_path: Path) -> None:
    calls = [
        interaction(n, "tools/call", {"name": "t", "arguments": {"n": n}}, {"result": {"n": n}}) for n in (1, 2, 3)
    ]
    file = cassette_of(tmp_path / "x.mcp.jsonl", *calls)
    peer = Peer(file, file.path, order="tool")
    given = [peer(call(1, arguments={"n": n}))[0] for n in (7, 1, 3)]
    assert [frame.result for frame in given if isinstance(frame, Frame)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert len(peer.player.drifts) == 2
    file.close()


def test_what_a_discovered_server_instructs_is_told_to_those_who_initialize() -> None:
    discovered = {"capabilities": {}, "instructions": "be kind"}
    assert initialize_result("2025-11-25", "s", None, discovered, set())["instructions"] == "be kind"


def test_to_have_no_experimental_capabilities_is_no_change() -> None:
    def surface(capabilities: dict[str, Any]) -> Surface:
        result = {"result": {"capabilities": capabilities, "protocolVersion": "1"}}
        return Surface.of([interaction(1, "initialize", None, result)], "s")

    changes = compare(surface({"experimental": {}}), surface({}))
    assert [change for change in changes if "experimental" in change.subject] == []


# Files.


def test_a_journal_that_somebody_replaces_while_it_is_locked_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    plain = os.fstat
    seen: list[int] = []

    def removed_once(file: int) -> os.stat_result:
        if not seen:
            seen.append(file)
            journal_of(path).unlink()
        return plain(file)

    monkeypatch.setattr(os, "fstat", removed_once)
    journal = Journal(path)
    assert seen
    assert (journal.write(b"line\n"), journal.size) == (0, 5)
    journal.close()
    journal.close()
    for number in (1, 2):
        again = Journal(path)
        assert again.set_aside == path.with_name(f"x.mcp.jsonl.part.{number}")
        again.write(b"line\n")
        again.close()


def test_an_error_of_locking_that_says_nothing_of_locks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, operation: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        Journal(tmp_path / "x.mcp.jsonl").write(b"")


def test_new_episodes_that_were_killed_are_put_below_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    cassette_of(path, interaction(1, "ping", None, {"result": {}})).close()
    recorder = Recorder(Journal(path), Redactor(Redaction()), mode="new_episodes", timing=False)
    number = recorder.connect("s")
    recorder.sent(number, call(1))
    recorder.received(number, Frame(1, result={"inputRequests": {}, "requestState": "opaque"}))
    recorder.sent(number, Frame(2, "subscriptions/listen"))
    about = {"io.modelcontextprotocol/subscriptionId": 2}
    recorder.received(number, Frame(None, "notifications/tools/list_changed", {"_meta": about}))
    recorder.received(number, Frame(None, "notifications/tools/list_changed", {"_meta": {**about, "kept": 1}}))
    recorder.received(number, Frame(2, result={}))
    recorder.journal.close()
    assert recover(journal_of(path), path).interactions == 3
    file = CassetteFile(path)
    _, called, listened = file
    assert called.result == {"inputRequests": {}, "requestState": "recorded"}
    told = {"server_notification": "notifications/tools/list_changed"}
    assert listened.events == [told, {**told, "params": {"_meta": {"kept": 1}}}, {"result": {}}]
    file.close()


def test_a_question_that_a_server_takes_back_is_kept_as_such_and_one_end_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    recorder = Recorder(Journal(path), Redactor(Redaction()), mode="once", timing=False)
    number = recorder.connect("s")
    recorder.sent(number, call(1))
    recorder.received(number, Frame("q", "elicitation/create", {"message": "?"}))
    recorder.received(number, Frame(None, "notifications/cancelled", {"requestId": "q"}))
    recorder.received(number, Frame(None, "notifications/cancelled", {"requestId": "never asked"}))
    recorder.closed(number, "end of stream")
    recorder.closed(number, "again")
    write_cassette(path, recorder.assembly.lines(1, SideFiles(path)))
    recorder.journal.discard()
    with closing(CassetteFile(path)) as file:
        [called] = file
    assert called.events == [
        {"server_request": "elicitation/create", "params": {"message": "?"}, "withdrawn": True},
        {"closed": "end of stream"},
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has no whole line; there is nothing to recover"),
        (b"precious notes", "it has no whole line; there is nothing to recover"),
        (b'{"format":"mcp-cassette-journal","version":9,"mode":"once"}\n', "it is of version 9, and this is for 1"),
    ],
)
def test_a_journal_that_is_none_is_not_recovered(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.mcp.jsonl"
    journal_of(path).write_bytes(content)
    with pytest.raises(CassetteFormatError, match=said):
        recover(journal_of(path), path)
    assert not path.exists()


def test_a_value_nested_too_deeply_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    cassette_of(path, interaction(1, "ping", None, {"result": {"$any": 1}})).close()
    levels = 900 if sys.version_info < (3, 12) else 3000  # since then, Python's stack is deeper
    deep = "[" * levels + "]" * levels
    path.write_text(path.read_text().replace('{"$literal":{"$any":1}}', f'{{"$any":{deep}}}'))
    file = CassetteFile(path)
    with pytest.raises(CassetteFormatError, match="nested too deeply"):
        file.load(0)
    file.close()


def test_what_is_lost_with_a_cassette_in_its_place_leaves_that_and_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    cassette_of(path, interaction(1, "ping", None, {"result": {}})).close()
    before = path.read_bytes()
    scope = use_cassette(path, mode="rewrite")
    cassette = scope.__enter__()
    assert (cassette.interactions[0].method, cassette.is_recording) == ("ping", True)
    recorder: Any = cassette._deck._recorder
    number = recorder.connect("s")
    recorder.sent(number, call(1))
    recorder.missed(ValueError("no"))
    with pytest.warns(
        CassetteWarning, match=r"1 of 2 messages were not written \(ValueError\); what was recorded is in x\.mcp"
    ):
        scope.__exit__(None, None, None)
    assert path.read_bytes() == before
    assert journal_of(path).exists()


@pytest.mark.parametrize("is_taken_back", [True, False])
def test_a_line_that_can_only_be_written_in_part_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken_back: bool
) -> None:
    journal = Journal(tmp_path / "x.mcp.jsonl")
    at = journal.write(b"whole\n")
    plain = os.write
    written: list[bytes] = []

    def partly(file: int, line: bytes) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(line)
        return plain(file, line[:3])

    def in_vain(file: int, length: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "write", partly)
    if not is_taken_back:
        monkeypatch.setattr(os, "ftruncate", in_vain)
    with pytest.raises(OSError, match="No space"):
        journal.write(b"half a line\n")
    monkeypatch.setattr(os, "write", plain)
    if is_taken_back:
        assert journal.write(b"a line\n") == 6
        assert journal.path.read_bytes() == b"whole\na line\n"
    else:
        # What comes behind it would be found in the wrong place.
        with pytest.raises(OSError, match="No space"):
            journal.write(b"a line\n")
        assert journal.path.read_bytes() == b"whole\nhal"
    assert journal.read(at, 6) == b"whole\n"
    journal.discard()


def test_a_name_that_leads_elsewhere_is_no_file_of_a_cassette() -> None:
    assert list(files_in([{"$file": "../../secret"}, {"$file": 5}])) == []


def test_a_cassette_that_another_context_has_closed_is_open_no_longer(tmp_path: Path) -> None:
    context = copy_context()
    scope = use_cassette(tmp_path / "x.mcp.jsonl", mode="off")
    context.run(scope.__enter__)
    assert current_cassette() is not None
    scope.__exit__(None, None, None)
    assert context.run(current_cassette) is None


def test_there_is_nothing_in_a_cassette_that_was_never_written(tmp_path: Path) -> None:
    with use_cassette(tmp_path / "x.mcp.jsonl", mode="once") as cassette:
        assert cassette.interactions == []
    assert (cassette.interactions, len(cassette)) == ([], 0)
    assert current_cassette() is None


def test_a_warning_taken_for_an_error_at_the_start_leaves_no_lock(tmp_path: Path, recwarn: Any) -> None:
    path = tmp_path / "x.mcp.jsonl"
    journal = Journal(path)
    journal.write(b"line\n")
    journal.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CassetteWarning):
            use_cassette(path, mode="once").__enter__()
    with use_cassette(path, mode="once"):
        pass


# Live servers held against a cassette.


def test_a_verifier_tells_what_is_gone_and_what_it_could_not_compare(tmp_path: Path) -> None:
    asks = {"result": {"inputRequests": {}, "requestState": "recorded"}}
    file = cassette_of(
        tmp_path / "x.mcp.jsonl",
        interaction(1, "tools/call", {"name": "a"}, {"error": {"code": 1, "message": "no"}}),
        interaction(2, "tools/call", {"name": "b"}, asks),
        interaction(3, "tools/call", {"name": "c"}, {"result": {}}),
        interaction(4, "tools/call", {"name": "d"}, {"cancelled": True}),
    )
    player = Player(file, Rules(), Redactor(Redaction()), Source(path=file.path, mode="verify", option="--record="))
    verifier = Verifier(player)
    number = verifier.connect("s")
    for request_id, name in enumerate("abcd"):
        verifier.sent(number, call(request_id, name))
    verifier.sent(number, Frame(9, "initialize", {}))  # what it says is not in the cassette, and need not be
    verifier.received(number, Frame(0, error={"code": 1, "message": "no"}))
    verifier.received(number, Frame(1, result={"inputRequests": {}, "requestState": "another"}))
    verifier.received(number, Frame(None, "notifications/message", {}))
    verifier.closed(number, "end of stream")
    assert [str(drift) for drift in verifier.drifts] == [
        '#3 tools/call c (server s)\n    (whole): recorded {"result": {}}, now (closed: end of stream)\n'
        "  way out   record again with mode='rewrite' (--record=rewrite)"
    ]
    other = verifier.connect("s")
    verifier._expected[other, 1] = file.load(0)
    verifier.received(other, Frame(1, result=5))  # type: ignore[arg-type]
    assert len(player.failures) == 1
    file.close()


# Streams.


class Failing:
    """A transport that cannot be left in peace."""

    async def __aenter__(self) -> Any:
        send, receive = anyio.create_memory_object_stream[Any](1)
        self.streams = (receive, send)
        return self.streams

    async def __aexit__(self, *exception: Any) -> None:
        for stream in self.streams:
            await stream.aclose()
        raise ConnectionError("no route")


class Notes:
    """Gets messages, and fails on each."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.failures: list[Exception] = []

    def connect(self, server: str) -> int:
        return 1

    def sent(self, number: int, frame: Frame) -> None:
        raise ValueError("no")

    received = sent

    def closed(self, number: int, how: str) -> None:
        self.ended.append(how)

    def missed(self, error: Exception) -> None:
        self.failures.append(error)


async def test_a_transport_that_fails_while_it_is_used_is_noted_as_an_end() -> None:
    notes, failing = Notes(), cast("AbstractAsyncContextManager[Any]", Failing())

    async def use(error: Exception | None) -> None:
        async with noted(failing, notes, "s") as (read, write):
            await write.send(item_from(Frame(1, "ping")))
            await read.receive()
            if error is not None:
                raise error

    with pytest.raises(ConnectionError):
        await use(None)
    assert (notes.ended, len(notes.failures)) == (["ConnectionError"], 2)
    with pytest.raises(ConnectionError):
        await use(ValueError("of the body"))
    assert notes.ended == ["ConnectionError"]


async def test_played_streams_behave_as_those_of_a_transport(tmp_path: Path) -> None:
    file = cassette_of(tmp_path / "x.mcp.jsonl", interaction(1, "ping", None, {"result": {}}))
    player = Player(file, Rules(), Redactor(Redaction()), Source(path=file.path, mode="none"))
    async with played(player, "s", 1) as (read, write):
        async with read, write:
            await write.send(ValueError("none"))
            await write.send(item_from(Frame(1, "ping")))
            async for item in read:
                assert frame_from(item) == Frame(1, result={})
                break
        await read.aclose()
        await write.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await write.send(item_from(Frame(2, "ping")))
    file.close()


async def test_the_end_of_a_stream_that_is_received_from_is_noticed_by_who_reads_along() -> None:
    ended: list[str] = []

    class Along:
        def sent(self, item: Any) -> None: ...

        def received(self, item: Any) -> None: ...

        def ended(self) -> None:
            ended.append("end")

    from mcp_intercept._wire import WireTap, read_along

    send, receive = anyio.create_memory_object_stream[Any](1)
    read, write = read_along(Along(), receive, send)
    async with read:
        await write.aclose()
        with pytest.raises(anyio.EndOfStream):
            await read.receive()
    assert ended == ["end"]
    assert WireTap().writing(send).untapped is send


async def test_what_a_client_tells_a_server_that_was_started_late_reaches_it(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    server = ScriptedServer("travel", strict=False)
    server.on_tool("a", "one")

    async def ask(context: Any, params: Any) -> Any:
        return types.ElicitResult(action="decline")

    async def asking(arguments: Any) -> str:
        answer = await server.ask(
            "elicitation/create", {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        )
        return str(answer["action"])

    server.on_tool("ask", asking)

    async def run(*tools: str) -> list[str]:
        said: list[str] = []
        async with connect(server.transport(), connection_id="s", elicitation_callback=ask) as session:
            for tool in tools:
                said.append((await session.call_tool(tool, {})).content[0].text)  # type: ignore[union-attr]
                await session.send_roots_list_changed()  # pyright: ignore[reportDeprecated]
        return said

    with use_cassette(path, mode="once"):
        await run("a")
    with use_cassette(path, mode="new_episodes"):
        assert await run("a", "ask", "a") == ["one", "decline", "one"]
    assert "notifications/roots/list_changed" in [frame.method for frame in server.notifications]
    with use_cassette(path, mode="none"):
        assert await run("a", "ask", "a") == ["one", "decline", "one"]


async def test_what_a_client_waits_for_is_refused_after_a_while_and_a_server_that_leaves_ends_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.mcp.jsonl"
    cassette_of(
        path,
        interaction(
            1,
            "initialize",
            {},
            {
                "result": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "serverInfo": {"name": "s", "version": "1"},
                }
            },
        ),
        interaction(2, "tools/call", {"name": "waits"}, {"cancelled": True}),
    ).close()
    scope = use_cassette(path, mode="new_episodes", patience=0.05)
    cassette = scope.__enter__()
    async with wire() as (client, server):

        async def leave(frame: Any) -> None:
            await server._write.send(ValueError("no message"))
            await server.close()

        server.answers["tools/call"] = leave
        async with connect(cassette.transport(client, server="s")) as session:
            with pytest.raises(
                Exception, match=r"left waiting; .* cut short[\s\S]*way out   give up as then, or record again with"
            ):
                await session.call_tool("waits")
            with pytest.raises(Exception, match="closed"):
                await session.call_tool("new")
    with pytest.raises(CassetteMissError):
        scope.__exit__(None, None, None)
    assert '"closed":"end of stream"' in path.read_text()


# The middleware.


async def failing(context: Any, call_next: Any) -> Any:
    if context.method == "tools/call":
        raise OSError("no route")
    return await call_next(context)


async def test_a_chain_records_and_replays_what_ends_in_every_way(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"

    async def use(session: Any) -> list[str]:
        said: list[str] = []

        async def hear(progress: float, total: Any, message: Any) -> None:
            said.append(f"at {progress}")

        for tool in ("good", "bad", "hangs"):
            with anyio.move_on_after(0.2) as scope:
                try:
                    result = await session.call_tool(tool, {}, progress_callback=hear)
                    said.append(result.content[0].text)
                except Exception as error:
                    said.append(str(error))
            said += ["gave up"] if scope.cancelled_caught else []
        await session.send_roots_list_changed()  # pyright: ignore[reportDeprecated]
        return said

    server = ScriptedServer("travel", strict=False)

    async def good(arguments: Any) -> str:
        server.progress(1)
        return "well"

    async def hang(arguments: Any) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    server.on_tool("good", good)
    server.on_tool("bad", server.error(5, "no"))
    server.on_tool("hangs", hang)
    live: list[str] = []
    for mode in ("once", "none", "new_episodes"):
        async with connect(server.transport()) as session:
            with use_cassette(path, mode=mode) as cassette:
                said = await use(intercept(session, cassette.middleware(server="s")))
        live = live or said
        assert said == live
    assert live == ["at 1.0", "well", "no", "gave up"]

    async def talk(arguments: Any) -> str:
        server.notify("notifications/message", {"level": "info", "data": "hear, hear"})
        await anyio.lowlevel.checkpoint()
        return "new"

    server.on_tool("new", talk)
    async with connect(server.transport()) as session:
        with use_cassette(path, mode="new_episodes") as cassette:
            wrapped = intercept(session, cassette.middleware(server="s"))
            result = await wrapped.call_tool("new", {})
            assert result.content[0].text == "new"  # type: ignore[union-attr]
        assert '"data":"hear, hear"' in path.read_text()
        with use_cassette(path, mode="none") as cassette:
            wrapped = intercept(session, cassette.middleware(server="s"))
            assert (await wrapped.call_tool("new", {})).content[0].text == "new"  # type: ignore[union-attr]
        with use_cassette(path, mode="off") as cassette:
            wrapped = intercept(session, cassette.middleware(server="s"), failing)
            with pytest.raises(OSError, match="no route"):
                await wrapped.call_tool("new", {})


async def test_a_chain_waits_no_longer_than_its_patience_and_ends_where_the_connection_did(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    cassette_of(
        path,
        interaction(1, "tools/call", {"name": "waits"}, {"cancelled": True}),
        interaction(2, "tools/call", {"name": "dies"}, {"closed": "end of stream"}),
    ).close()
    async with connect(ScriptedServer("travel", strict=False).transport()) as session:
        scope = use_cassette(path, mode="none", patience=0.05)
        wrapped = intercept(session, scope.__enter__().middleware(server="s"))
        with pytest.raises(Exception, match="left waiting"):
            await wrapped.call_tool("waits")
        with pytest.raises(Exception, match="Connection closed"):
            await wrapped.call_tool("dies")
        with pytest.raises(CassetteMissError):
            scope.__exit__(None, None, None)


async def test_a_chain_records_a_connection_that_ends_and_an_answer_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"

    async def refuse(context: Any, params: Any) -> Any:
        return types.ErrorData(code=7, message="no")

    server = ScriptedServer("travel", strict=False)

    async def asking(arguments: Any) -> str:
        try:
            await server.ask(
                "elicitation/create", {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
            )
        except Exception as error:
            return f"refused: {error}"
        return "answered"

    server.on_tool("ask", asking)
    server.on_tool("die", lambda arguments: server.disconnect())
    async with connect(server.transport(), elicitation_callback=refuse) as session:
        with use_cassette(path, mode="once") as cassette:
            wrapped = intercept(session, cassette.middleware(server="s"))
            await wrapped.call_tool("ask", {})
            with pytest.raises(Exception, match="closed"):
                await wrapped.call_tool("die", {})
    text = path.read_text()
    assert '"client_error":{"code":7' in text
    assert '"closed":' in text


async def test_a_chain_records_as_closed_what_fails_below_it(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"

    async with connect(ScriptedServer("travel", strict=False).transport()) as session:
        with use_cassette(path, mode="once") as cassette:
            wrapped = intercept(session, cassette.middleware(server="s"), failing)
            with pytest.raises(OSError, match="no route"):
                await wrapped.call_tool("t", {})
    assert '"closed":"OSError"' in path.read_text()


async def test_a_chain_lets_pass_what_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    odd = types.CallToolResult.model_validate({"content": [], "structuredContent": {"x": object()}})

    async def answer(context: Any, call_next: Any) -> Any:
        return odd if context.method == "tools/call" else await call_next(context)

    server = ScriptedServer("travel", strict=False)
    server.on_tool("t", "never asked")
    async with connect(server.transport()) as session:
        with use_cassette(path, mode="off") as cassette:
            assert await intercept(session, cassette.middleware(server="s"), answer).call_tool("t") is odd
        with pytest.warns(CassetteWarning, match="1 of 2 messages"), use_cassette(path, mode="once") as cassette:
            assert await intercept(session, cassette.middleware(server="s"), answer).call_tool("t") is odd
    assert '"result"' not in path.read_text()


async def test_a_verifying_chain_compares(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    cassette_of(path, interaction(1, "tools/call", {"name": "t"}, {"result": {"content": [], "isError": True}})).close()
    server = ScriptedServer("travel", strict=False)
    server.on_tool("t", "other")
    scope = use_cassette(path, mode="verify")
    middleware = scope.__enter__().middleware(server="s")
    assert isinstance(middleware, CassetteMiddleware)
    async with connect(server.transport()) as session:
        await intercept(session, middleware).call_tool("t")
    with pytest.raises(CassetteDriftError):
        scope.__exit__(None, None, None)


async def test_the_error_of_a_block_on_an_old_python_is_followed_by_a_log_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mcp_intercept._deck.sys.version_info", (3, 10))
    path = tmp_path / "x.mcp.jsonl"

    async def run() -> None:
        with use_cassette(path, mode="none"):
            async with connect(NOBODY):
                raise AssertionError("it opened")

    with pytest.raises(Exception, match="no cassette"), caplog.at_level(logging.ERROR):
        await run()
    assert "had no answer to 1 request" in caplog.text


async def test_a_wire_that_carries_what_is_no_message_is_recorded_around_it(tmp_path: Path) -> None:
    path = tmp_path / "x.mcp.jsonl"
    with use_cassette(path, mode="once") as cassette:
        async with wire() as (client, server), cassette.transport(client, server="s") as (read, _):
            await server._write.send(ValueError("no message"))
            assert isinstance(await read.receive(), ValueError)
    assert not path.exists()
