"""Laws of cassettes: what is written reads back, chance leaves no trace, and what is damaged is refused as such."""

# ruff: noqa: PT017 - what is damaged may load as well.

from __future__ import annotations

import random
import shutil
import tempfile
import warnings
from base64 import b64encode
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mcp_intercept import use_cassette
from mcp_intercept.errors import CassetteError, CassetteFormatError
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.journal import Journal, journal_of
from mcp_intercept.recording.matching import Rules, differences
from mcp_intercept.recording.misses import Source
from mcp_intercept.recording.played import Closed, PlayedConnection
from mcp_intercept.recording.player import Player
from mcp_intercept.recording.recorder import Recorder
from mcp_intercept.recording.recovery import recover
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.store import CassetteFile, write_cassette
from mcp_intercept.recording.stored import SideFiles, folder_of
from mcp_intercept.recording.values import canonical

few = settings(max_examples=40)

BINARY = b64encode(bytes(range(256)) * 20).decode()
HUGE = ["x" * 70_000, "€\n" * 40_000, "\ud800" * 66_000, BINARY, BINARY[:-1], " " + BINARY, "0" * 5000, BINARY * 20]
KEYS = ["$any", "$regex", "$subset", "$file", "$literal", "$", "data", "blob", "text", "mimeType", "n", "_meta", ""]

texts = st.text(st.characters(), max_size=20) | st.sampled_from(["\ud800", "\udfff\ud800", "\0", "\u2028", "NaN", "😀"])


def power(exponent: int) -> int:
    large: int = 10**exponent
    return large if exponent % 2 else -large


numbers = st.integers() | st.integers(17, 4000).map(power) | st.floats(allow_nan=False, allow_infinity=False)
keys = texts | st.sampled_from(KEYS)


def huge(place: int) -> str:
    """One of `HUGE`, which would else be shown in full wherever hypothesis names a strategy."""
    return HUGE[place]


leaves = st.none() | st.booleans() | numbers | texts | st.integers(0, len(HUGE) - 1).map(huge)


def inside_of(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=4) | st.dictionaries(keys, items, max_size=4)


values = st.recursive(leaves, inside_of, max_leaves=12)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@contextmanager
def folder() -> Generator[Path, None, None]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def recorder_of(path: Path) -> Recorder:
    return Recorder(Journal(path), Redactor(Redaction(defaults=False)), mode="rewrite", timing=False)


def save(recorder: Recorder, path: Path) -> None:
    write_cassette(path, recorder.assembly.lines(1, SideFiles(path)))
    recorder.journal.discard()


def read(path: Path) -> list[Interaction]:
    file = CassetteFile(path)
    try:
        return list(file)
    finally:
        file.close()


def call(name: Any, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


# What is written reads back.


@few
@given(values, values, values)
def test_what_is_written_reads_back(argument: Any, result: Any, told: Any) -> None:
    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        recorder = recorder_of(path)
        c = recorder.connect("w")
        params, answer = call("tool", {"v": argument}), {"content": [], "structuredContent": {"v": result}}
        recorder.sent(c, Frame(1, "tools/call", params))
        recorder.received(c, Frame(None, "notifications/message", {"data": told}))
        recorder.received(c, Frame("q", "acme/ask", {"v": told}))
        recorder.sent(c, Frame("q", result={"v": argument}))
        recorder.received(c, Frame(1, result=answer))
        recorder.sent(c, Frame(2, "acme/other", {"v": argument}))
        recorder.received(c, Frame(2, error={"code": 5, "message": "m", "data": result}))
        assert recorder.lost == 0
        journal = tmp / "journal"
        shutil.copy(journal_of(path), journal)
        save(recorder, path)
        one, other = read(path)
        assert (one.params, one.result) == (params, answer)
        assert one.events[0] == {"server_notification": "notifications/message", "params": {"data": told}}
        assert one.events[1] == {"server_request": "acme/ask", "params": {"v": told}, "client_result": {"v": argument}}
        assert (other.params, other.error) == ({"v": argument}, {"code": 5, "message": "m", "data": result})
        # And a journal gives the same, byte for byte, as a recording that came to its end.
        recover(journal, tmp / "y.mcp.jsonl")
        assert (tmp / "y.mcp.jsonl").read_bytes() == path.read_bytes()
        kept, made = folder_of(path), folder_of(tmp / "y.mcp.jsonl")
        assert kept.exists() == made.exists()
        if kept.exists():
            assert {f.name: f.read_bytes() for f in kept.iterdir()} == {f.name: f.read_bytes() for f in made.iterdir()}


@pytest.mark.parametrize("depth", [10, 150, 199, 254, 256, 300, 480, 700, 900, 990, 1200, 20_000])
@pytest.mark.parametrize("extra", ["", "$", "large"])
def test_what_is_nested_deeply_reads_back_or_is_counted_as_lost(tmp_path: Path, depth: int, extra: str) -> None:
    path = tmp_path / "x.mcp.jsonl"
    recorder = recorder_of(path)
    c = recorder.connect("w")
    value = {"v": nested(depth), "more": {"": 1, "$": {"$any": 1}, "large": "x" * 5000}[extra]}
    recorder.sent(c, Frame(1, "tools/call", call("tool", value)))
    recorder.received(c, Frame(1, result={"v": value}))
    recorder.sent(c, Frame(2, "tools/call", call("tool", {})))
    recorder.received(c, Frame(2, result={"v": 1}))
    save(recorder, path)
    found = read(path)
    assert found[-1].result == {"v": 1}
    if recorder.lost:
        assert depth > 150
    else:
        assert len(found) == 2
        assert repr(found[0].params) == repr(call("tool", value)) if depth < 300 else True


@few
@given(values, st.randoms(use_true_random=False))
def test_a_request_matches_itself_whatever_the_order_of_its_keys(value: Any, chance: random.Random) -> None:
    def shuffled(item: Any) -> Any:
        if isinstance(item, dict):
            pairs = [(key, shuffled(inside)) for key, inside in item.items()]
            chance.shuffle(pairs)
            return dict(pairs)
        return [shuffled(inside) for inside in item] if isinstance(item, list) else item

    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        recorder = recorder_of(path)
        c = recorder.connect("w")
        recorder.sent(c, Frame(1, "tools/call", call("tool", {"v": value})))
        recorder.received(c, Frame(1, result={}))
        save(recorder, path)
        sent: list[Any] = []
        with playing(path, sent) as (connection, player):
            connection.take(Frame(7, "tools/call", call("tool", {"v": shuffled(value)})))
            assert sent == [Frame(7, result={})]
            assert not player.misses
            assert not player.failures


@few
@given(values, values)
def test_values_are_equal_where_they_do_not_differ_and_the_other_way_round(one: Any, other: Any) -> None:
    # Placeholders are for hands; what stands in a message is none.
    assume("$" not in repr(one))
    assert (canonical(one) == canonical(other)) == (differences({"v": one}, {"v": other}) == [])
    assert differences({"v": one}, {"v": one}) == []


@few
@given(st.dictionaries(keys, values), st.dictionaries(keys, values))
def test_what_a_report_shows_can_be_ignored(one: dict[str, Any], other: dict[str, Any]) -> None:
    assume("$" not in repr(one))
    then, now = ({"structuredContent": item} for item in (one, other))
    found = differences({"result": then}, {"result": now}, 10_000)
    rules = Rules(ignore_results=[difference.pointer for difference in found])
    assert rules.answer("tools/call", then) == rules.answer("tools/call", now)
    found = differences({"arguments": one}, {"arguments": other}, 10_000)
    rules = Rules(ignore=[difference.pointer for difference in found])
    before, after = (rules.essence("tools/call", {"name": "tool", "arguments": item}) for item in (one, other))
    assert differences(before, after) == []


@contextmanager
def playing(path: Path, sent: list[Any], **rules: Any) -> Generator[tuple[PlayedConnection, Player], None, None]:
    file = CassetteFile(path)
    try:
        player = Player(file, Rules(**rules), Redactor(Redaction(defaults=False)), Source(path=path, mode="none"))
        yield PlayedConnection(player, "w", sent.append), player
    finally:
        file.close()


# Chance leaves no trace.

Script = list[list[tuple[str, int]]]
"""For each task, the tools that it calls in turn, with an argument."""

scripts = st.lists(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 2)), min_size=1, max_size=4),
    min_size=2,
    max_size=5,
)


class Run:
    """A client whose tasks all start before anything is answered; everything else is up to chance.

    Args:
        path: The cassette.
        chance: In what order things happen.
        lists: Whether the client asks for the list of tools after a call, as long as it has none, as the SDK does.
    """

    def __init__(self, path: Path, chance: random.Random, *, lists: bool) -> None:
        self.path = path
        self.chance = chance
        self.lists = lists
        self.recorder = recorder_of(path)
        self.ids = iter(range(1, 10_000))
        self.has_list = False
        self.asks = False

    def send(self, context: Context, c: int, method: str, params: dict[str, Any] | None) -> int:
        request_id = next(self.ids)
        token = {"_meta": {"progressToken": request_id}} if method == "tools/call" else {}
        context.run(self.recorder.sent, c, Frame(request_id, method, {**(params or {}), **token} or None))
        return request_id

    def task(self, context: Context, c: int, calls: list[tuple[str, int]]) -> Iterator[None]:
        for name, number in calls:
            request_id = self.send(context, c, "tools/call", call(name, {"n": number}))
            yield
            progress = {"progressToken": request_id, "progress": number}
            self.recorder.received(c, Frame(None, "notifications/progress", progress))
            yield
            if number == 2 and self.asks:
                self.recorder.received(c, Frame(f"q{request_id}", "elicitation/create", {"message": name}))
                yield
                self.recorder.sent(c, Frame(f"q{request_id}", result={"action": "accept"}))
                yield
            self.recorder.received(c, Frame(request_id, result={"content": [name, number]}))
            yield
            if self.lists and not self.has_list:
                request_id = self.send(context, c, "tools/list", None)
                yield
                self.recorder.received(c, Frame(request_id, result={"tools": []}))
                self.has_list = True
                yield

    def run(self, script: Script) -> bytes:
        # Which of several calls a question belongs to, nothing tells; that they are all on their way has to be sure.
        self.asks = all(len(calls) == 1 for calls in script)
        context = copy_context()
        c = self.recorder.connect("w")
        request_id = self.send(context, c, "initialize", {"protocolVersion": "2025-11-25"})
        self.recorder.received(c, Frame(request_id, result={"protocolVersion": "2025-11-25"}))
        context.run(self.recorder.sent, c, Frame(None, "notifications/initialized"))
        tasks = [self.task(context.run(copy_context), c, calls) for calls in script]
        self.chance.shuffle(tasks)
        for task in tasks:
            next(task)
        while tasks:
            task = self.chance.choice(tasks)
            try:
                next(task)
            except StopIteration:
                tasks.remove(task)
        # Afterwards, and so behind all of it.
        request_id = self.send(context, c, "tools/call", call("last", {}))
        self.recorder.received(c, Frame(request_id, result={}))
        save(self.recorder, self.path)
        return self.path.read_bytes()


@few
@given(scripts, st.booleans(), st.integers(), st.integers())
def test_whatever_order_concurrent_calls_and_their_answers_come_in_the_file_is_the_same(
    script: Script, lists: bool, one: int, other: int
) -> None:
    with folder() as tmp:
        first = Run(tmp / "one.mcp.jsonl", random.Random(one), lists=lists).run(script)
        second = Run(tmp / "two.mcp.jsonl", random.Random(other), lists=lists).run(script)
        assert first.decode().splitlines() == second.decode().splitlines()
        found = read(tmp / "one.mcp.jsonl")
        assert [one.name for one in found if one.method == "tools/call"][-1] == "last"
        assert sum(one.method == "tools/call" for one in found) == sum(map(len, script)) + 1


@few
@given(scripts, st.integers(), st.integers())
def test_a_recording_replays_in_whatever_order(script: Script, one: int, other: int) -> None:
    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        Run(path, random.Random(one), lists=True).run(script)
        sent: list[Any] = []
        with playing(path, sent) as (connection, player):
            connection.take(Frame(0, "initialize", {"protocolVersion": "2025-11-25"}))
            connection.take(Frame(None, "notifications/initialized"))
            calls = [each for task in script for each in task]
            random.Random(other).shuffle(calls)
            sent.clear()
            for number, (name, n) in enumerate(calls, 1):
                connection.take(
                    Frame(number, "tools/call", {**call(name, {"n": n}), "_meta": {"progressToken": f"t{n}"}})
                )
            while questions := [frame for frame in sent if frame.method == "elicitation/create"]:
                for frame in questions:
                    sent.remove(frame)
                    connection.take(Frame(frame.id, result={"action": "accept"}))
            progress = [frame.params for frame in sent if frame.method is not None]
            assert sorted(map(str, progress)) == sorted(
                str({"progressToken": f"t{n}", "progress": n}) for _, n in calls
            )
            answers = {frame.id: frame.result for frame in sent if frame.method is None}
            assert answers == {number: {"content": list(each)} for number, each in enumerate(calls, 1)}
            assert [player.load(place).name for place in player.unused()] == ["last"]
            assert not player.misses
            assert not player.failures


@few
@given(st.lists(st.sampled_from(["same", "other"]), min_size=1, max_size=6), st.integers())
def test_answers_that_change_are_given_in_order_and_nothing_after_the_last(asked: list[str], seed: int) -> None:
    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        recorder = recorder_of(path)
        c = recorder.connect("w")
        for number, name in enumerate(asked):
            recorder.sent(c, Frame(number, "tools/call", call(name, {})))
            recorder.received(c, Frame(number, result={"at": number}))
        save(recorder, path)
        order = sorted(asked, key=lambda _: random.Random(seed).random())
        sent: list[Any] = []
        with playing(path, sent) as (connection, player):
            for number, name in enumerate(order):
                connection.take(Frame(number, "tools/call", call(name, {})))
            for name in ("same", "other"):
                given_ = [sent[at].result["at"] for at, each in enumerate(order) if each == name]
                assert given_ == [at for at, each in enumerate(asked) if each == name]
            connection.take(Frame(99, "tools/call", call(order[0], {})))
            assert sent[-1].id == 99
            assert sent[-1].error is not None
            assert [miss.reason for miss in player.misses] == ["used up"]


# What is damaged is refused as such.


def sample() -> tuple[bytes, bytes, dict[str, bytes]]:
    """A cassette with one of everything, the journal of it, and its side files."""
    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        recorder = recorder_of(path)
        for c in (recorder.connect("w"), recorder.connect("w"), recorder.connect("v")):
            recorder.sent(c, Frame(1, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}}))
            recorder.received(c, Frame(1, result={"protocolVersion": "2025-11-25", "capabilities": {}}))
            recorder.sent(c, Frame(None, "notifications/initialized"))
            recorder.sent(c, Frame(2, "tools/call", {**call("a", {"$any": 1}), "_meta": {"progressToken": 2}}))
            recorder.received(c, Frame(None, "notifications/progress", {"progressToken": 2, "progress": 0.5}))
            recorder.received(c, Frame("q", "elicitation/create", {"message": "?"}))
            recorder.sent(c, Frame("q", result={"action": "accept", "content": {"n": 1.5e300}}))
            recorder.received(c, Frame("r", "roots/list"))
            recorder.sent(c, Frame("r", error={"code": 5, "message": "no"}))
            recorder.received(c, Frame(2, result={"content": [{"type": "text", "text": "é\u2028" * 40_000}]}))
            recorder.sent(c, Frame(3, "resources/read", {"uri": "memo://1"}))
            recorder.received(c, Frame(3, result={"contents": [{"uri": "memo://1", "blob": BINARY}]}))
            recorder.sent(c, Frame(4, "tools/call", call("b", {})))
            recorder.received(c, Frame(4, error={"code": -32000, "message": "bad", "data": [None, True]}))
            recorder.sent(c, Frame(5, "tools/call", call("c", {"n": 10**30})))
            recorder.sent(c, Frame(None, "notifications/cancelled", {"requestId": 5}))
            recorder.sent(c, Frame(6, "tools/call", call("d", {})))
            recorder.closed(c, "end of stream")
        journal = journal_of(path).read_bytes()
        save(recorder, path)
        return path.read_bytes(), journal, {side.name: side.read_bytes() for side in folder_of(path).iterdir()}


CASSETTE, JOURNAL, SIDES = sample()


def damage(content: bytes, kind: str, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    at = chance.randrange(len(content))
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    if kind == "truncated":
        return content[:at]
    if kind == "flipped":
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    if kind == "reordered":
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == "repeated":
        lines.insert(other, lines[one])
    elif kind == "left out":
        del lines[one]
    elif kind == "joined":
        lines[one] = lines[one].rstrip(b"\n")
    elif kind == "digits":
        digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
        place = chance.choice(digits)
        number = chance.choice(
            [b"0", b"-1", b"1e5", b"%d" % 10**25, b"null", b'"1"', b"[]", b"{}", b"true", b"9" * 5000]
        )
        return content[:place] + number + content[place + 1 :]
    elif kind == "values":
        opens = [place for place in range(len(content)) if content[place : place + 2] == b':"']
        place = chance.choice(opens) + 1
        end = content.index(b'"', place + 1) + 1
        value = chance.choice(
            [b"0", b"null", b"[]", b"{}", b'""', b'"\\ud800"', b'{"$any":true}', b"[" * 700 + b"]" * 700]
        )
        return content[:place] + value + content[end:]
    else:
        return content[:at] + chance.randbytes(chance.randrange(1, 50)) + content[at:]
    return b"".join(lines)


KINDS = ["truncated", "flipped", "reordered", "repeated", "left out", "joined", "digits", "values", "binary"]

ASKED = [
    Frame(1, "initialize", {"protocolVersion": "2025-11-25"}),
    Frame(None, "notifications/initialized"),
    Frame(2, "tools/call", {**call("a", {"$any": 1}), "_meta": {"progressToken": 2}}),
    Frame("mcp-intercept-1", result={"action": "accept", "content": {"n": 1.5e300}}),
    Frame("mcp-intercept-2", error={"code": 5, "message": "no"}),
    Frame(3, "resources/read", {"uri": "memo://1"}),
    Frame(4, "tools/call", call("b", {})),
    Frame(5, "tools/call", call("c", {"n": 10**30})),
    Frame(None, "notifications/cancelled", {"requestId": 5}),
    Frame(6, "tools/call", call("d", {})),
    Frame(7, "tools/list"),
]


def use_all(path: Path) -> None:
    """Read everything in a cassette, and ask it for everything; nothing but what is expected is raised."""
    sent: list[Any] = []
    with playing(path, sent) as (connection, player):
        for frame in ASKED:
            connection.take(frame)
        assert all(isinstance(failure, CassetteFormatError) for failure in player.failures), player.failures
        assert all(isinstance(one, (Frame, Closed)) for one in sent)
        for miss in player.misses:
            assert "\x1b" not in str(miss)
    read(path)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_damaged_file_loads_or_is_refused_with_its_line(kind: str, seed: int) -> None:
    chance = random.Random(seed)
    content = damage(CASSETTE, kind, chance)
    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        path.write_bytes(content)
        folder_of(path).mkdir()
        for name, side in SIDES.items():
            (folder_of(path) / name).write_bytes(damage(side, "flipped", chance) if chance.random() < 0.1 else side)
        try:
            use_all(path)
        except CassetteFormatError as error:
            assert error.line is not None or content == b""
            assert error.line is None or 1 <= error.line <= content.count(b"\n") + 1
            assert "\n" not in error.reason
            assert error.path == path
        mode: Any = chance.choice(["none", "once", "new_episodes", "rewrite", "verify"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with use_cassette(path, mode=mode):
                    pass
            except CassetteError:
                pass
        assert path.read_bytes() == content
        assert {found.name for found in tmp.iterdir()} == {path.name, folder_of(path).name}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@example(3581)
@given(st.integers(0, 2**32))
def test_a_damaged_journal_is_recovered_or_refused_with_its_line(kind: str, seed: int) -> None:
    content = damage(JOURNAL, kind, random.Random(seed))
    with folder() as tmp:
        path, journal = tmp / "x.mcp.jsonl", tmp / "x.mcp.jsonl.part"
        journal.write_bytes(content)
        try:
            recover(journal, path)
        except CassetteFormatError as error:
            assert error.path == journal
            assert not path.exists()
        else:
            read(path)  # what came of it is one
        assert journal.read_bytes() == content


ids = st.integers(0, 5) | st.sampled_from(["mcp-intercept-1", "mcp-intercept-2", "1", ""])
names = ["name", "arguments", "uri", "protocolVersion", "requestState", "inputResponses"]


def with_meta(given_: dict[str, Any], meta: dict[str, Any] | None) -> dict[str, Any]:
    return given_ if meta is None else {**given_, "_meta": meta}


def message(request_id: Any, method: str, params: dict[str, Any] | None) -> Frame:
    return Frame(request_id, method, params)


def cancellation(request_id: Any) -> Frame:
    return Frame(None, "notifications/cancelled", {"requestId": request_id})


def answer(request_id: Any, result: dict[str, Any] | None) -> Frame:
    return Frame(request_id, result=result or {})


def refusal(request_id: Any, data: Any) -> Frame:
    return Frame(request_id, error={"code": 1, "message": "", "data": data})


params = st.none() | st.builds(
    with_meta,
    st.dictionaries(
        st.sampled_from(names), values | st.sampled_from(["a", "b", "c", "d", "memo://1", 5, {"$any": 1}]), max_size=4
    ),
    st.none() | st.just({"progressToken": 1}) | st.dictionaries(texts, values, max_size=2),
)
requests = st.sampled_from(
    ["initialize", "tools/call", "tools/list", "ping", "x/y", "server/discover", "resources/read"]
)
notifications = st.sampled_from(["notifications/initialized", "notifications/progress"])
messages = (
    st.builds(message, ids, requests | st.just("subscriptions/listen"), params)
    | st.builds(message, st.none(), notifications, params)
    | st.builds(cancellation, ids)
    | st.builds(answer, ids, params)
    | st.builds(refusal, ids, values)
)


@few
@given(st.lists(messages, max_size=8))
def test_whatever_a_client_sends_a_replay_answers_each_request_at_most_once(frames: list[Frame]) -> None:
    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        path.write_bytes(CASSETTE)
        folder_of(path).mkdir()
        for name, side in SIDES.items():
            (folder_of(path) / name).write_bytes(side)
        sent: list[Any] = []
        with playing(path, sent) as (connection, player):
            for frame in frames:
                connection.take(frame)
            connection.give_up()
            assert player.failures == []
        asked: list[Any] = [frame.id for frame in frames if frame.method is not None and frame.id is not None]
        answers = [frame.id for frame in sent if isinstance(frame, Frame) and frame.method is None]
        for request_id in set(answers):
            assert answers.count(request_id) <= asked.count(request_id)


@few
@given(st.lists(messages, max_size=12), st.integers())
def test_whatever_passes_a_recorder_takes_it_and_what_it_writes_is_a_cassette(frames: list[Frame], seed: int) -> None:
    chance = random.Random(seed)
    with folder() as tmp:
        path = tmp / "x.mcp.jsonl"
        recorder = recorder_of(path)
        connections = [recorder.connect("w"), recorder.connect("v")]
        for frame in frames:
            c = chance.choice(connections)
            chance.choice([recorder.sent, recorder.received])(c, frame)
        if chance.random() < 0.5:
            recorder.closed(connections[0], "end of stream")
        journal = tmp / "journal"
        shutil.copy(journal_of(path), journal)
        save(recorder, path)
        read(path)
        recover(journal, tmp / "y.mcp.jsonl")
        assert (tmp / "y.mcp.jsonl").read_bytes() == path.read_bytes()
