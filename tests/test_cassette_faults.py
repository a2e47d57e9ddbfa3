"""What goes wrong around a recording or replay, and harms no call: disks, processes, files, functions of users."""

# ruff: noqa: ASYNC230, ASYNC240, PT012, PT017, PT031 - files are small here; and what is raised is raised by the end of a block.

from __future__ import annotations

import json
import logging
import mimetypes
import os
import subprocess
import sys
import warnings
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_intercept import Cassette, connect, use_cassette
from mcp_intercept.errors import (
    CassetteError,
    CassetteFormatError,
    CassetteLockedError,
    CassetteMissError,
    CassetteWarning,
    InterceptError,
)
from mcp_intercept.recording.journal import journal_of
from mcp_intercept.recording.recovery import recover
from mcp_intercept.recording.redaction import Redaction
from mcp_intercept.recording.store import CassetteFile
from mcp_intercept.recording.stored import SideFiles, folder_of
from tests.ears import SCHEMA, Error, T
from tests.server import ROOT, http_server
from tests.test_cassette_traps import (
    call_plainly,
    each,
    lines_of,
    said,
    saying,
    session_over,
    taped,
    untaped,
)
from tests.wire import Frame, WireServer

pytestmark = pytest.mark.anyio

posix = pytest.mark.skipif(sys.platform == "win32", reason="files and processes of POSIX")

MODES = ("none", "once", "new_episodes", "rewrite", "verify")


def python(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python of this environment, in the checkout."""
    # What is limited in what it may write, or killed, would leave half of what coverage writes.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, *arguments], text=True, env=environment, cwd=ROOT, **options)


async def record_one(path: Path, **arguments: Any) -> None:
    with use_cassette(path, mode="rewrite") as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            await call_plainly(session, "tool", arguments)


async def calls(session: Any, count: int) -> list[str]:
    return [await said(call_plainly(session, "tool", {"n": number, "x": "y" * 200})) for number in range(count)]


EXPECTED = [f'tool {{"n": {number}, "x": "{"y" * 200}"}}' for number in range(50)]


# The disk.

LIMITED = """
import resource, sys, warnings
from pathlib import Path
import anyio
from mcp_intercept import use_cassette
from tests.test_cassette_faults import EXPECTED, calls, taped
from tests.test_cassette_traps import saying

async def main(path, limit, backend):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with use_cassette(path, mode="once") as cassette:
            async with taped(cassette) as (session, server):
                server.answers["tools/call"] = saying
                live = await calls(session, 50)
                sent = len(server.frames)
    assert live == EXPECTED
    print(sent + 51, cassette.lost, [str(warning.message) for warning in warned if "mcp.jsonl" in str(warning.message)])

anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], backend=sys.argv[3])
"""


def messages_in(path: Path) -> int:
    """How many messages a cassette has."""
    file = CassetteFile(path)
    try:
        return sum(1 + len(one.events) for one in file)
    finally:
        file.close()


@posix
@pytest.mark.parametrize("limit", [0, 60, 4_000, 20_000])
def test_a_full_disk_harms_no_call_and_what_is_lost_is_counted(tmp_path: Path, anyio_backend: str, limit: int) -> None:
    path = tmp_path / "full.mcp.jsonl"
    with python("-c", LIMITED, str(path), str(limit), anyio_backend) as child:
        said_, complained = child.communicate(timeout=60)
    assert child.returncode == 0, complained
    made, lost, warned = said_.split(maxsplit=2)
    assert "not complete" in warned or "could not be written" in warned
    if not path.exists():
        # Not even the cassette itself could be written; the journal is what there is.
        journal = journal_of(path)
        if not journal.exists() or journal.stat().st_size < 200:
            assert int(lost) >= int(made) - 2
            return
        recover(journal, path)
    assert messages_in(path) + int(lost) == int(made) == 103
    assert "rewrite" not in complained


@posix
async def test_a_disk_that_is_full_for_a_while_costs_what_was_said_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "while.mcp.jsonl"
    with pytest.warns(CassetteWarning, match=r"not complete: \d+ of \d+ messages were not written \(No space left"):
        with use_cassette(path, mode="once") as cassette:
            file = cassette._deck._recorder.journal._file  # type: ignore[union-attr]
            assert file is not None
            async with taped(cassette) as (session, server):
                server.answers["tools/call"] = saying
                assert await calls(session, 3) == EXPECTED[:3]
                kept, full = os.dup(file), os.open("/dev/full", os.O_RDWR)
                os.dup2(full, file)
                assert await calls(session, 5) == EXPECTED[:5]
                os.dup2(kept, file)
                assert await calls(session, 10) == EXPECTED[:10]
            os.close(kept)
            os.close(full)
    assert cassette.lost == 10
    assert lines_of(path)[0]["lost"] == 10
    assert messages_in(path) == 3 + 26
    with pytest.warns(CassetteWarning, match="10 messages could not be written"):
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                assert await calls(session, 10) == EXPECTED[:10]


async def test_a_folder_that_cannot_be_made_harms_no_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    path = tmp_path / "file" / "x.mcp.jsonl"
    with pytest.warns(CassetteWarning) as warned:
        with use_cassette(path, mode="once") as cassette:
            async with taped(cassette) as (session, server):
                server.answers["tools/call"] = saying
                assert await calls(session, 5) == EXPECTED[:5]
    assert cassette.lost == 13
    assert any("13" in str(warning.message) for warning in warned)


@posix
async def test_a_cassette_that_cannot_be_replaced_leaves_the_old_one_and_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.mcp.jsonl"
    await record_one(path, n=1)
    before = path.read_bytes()

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.warns(CassetteWarning, match="recover"):
        with use_cassette(path, mode="rewrite") as cassette:
            async with taped(cassette) as (session, server):
                server.answers["tools/call"] = saying
                await call_plainly(session, "tool", {"n": 2})
            monkeypatch.setattr(os, "fsync", no_space)
    monkeypatch.undo()
    assert path.read_bytes() == before
    path.unlink()
    recover(journal_of(path), path)
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await said(call_plainly(session, "tool", {"n": 2})) == 'tool {"n": 2}'


@pytest.mark.parametrize("lost", [False, True], ids=["whole", "not complete"])
async def test_who_takes_warnings_for_errors_loses_no_recording(tmp_path: Path, lost: bool) -> None:
    path = tmp_path / "error.mcp.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with use_cassette(path, mode="once") as cassette:
                async with taped(cassette) as (session, server):
                    server.answers["tools/call"] = saying
                    await call_plainly(session, "tool", {"n": 1})
                if lost:
                    cassette._deck._recorder.lost = 1  # type: ignore[union-attr]
        except CassetteWarning:
            assert lost
    assert path.exists() or journal_of(path).exists()
    await record_one(path, n=1)  # nobody holds it any longer


# Processes.


@posix
def test_whatever_kills_a_recording_what_was_answered_is_not_lost() -> None:
    with python("-m", "tests.kills", "--kills", "5", "--seed", "7") as child:
        said_, complained = child.communicate(timeout=60)
    assert child.returncode == 0, complained
    assert "none of them lost" in said_


HOLDING = """
import sys
from pathlib import Path
import anyio
from mcp_intercept import use_cassette
from tests.test_cassette_faults import call_plainly, saying, taped

async def main(path):
    with use_cassette(path, mode="rewrite") as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = saying
            await call_plainly(session, "tool", {"n": "of the child"})
            print("recording", flush=True)
            sys.stdin.readline()

anyio.run(main, Path(sys.argv[1]))
"""


@posix
async def test_two_processes_do_not_record_one_cassette(tmp_path: Path) -> None:
    path = tmp_path / "one.mcp.jsonl"
    with python("-c", HOLDING, str(path)) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "recording\n"
        journal = journal_of(path).read_bytes()
        for mode in each("once", "rewrite", "new_episodes"):
            with pytest.raises(CassetteLockedError, match="another process") as refused:
                with use_cassette(path, mode=mode):
                    pass
            assert refused.value.path == path
        with pytest.raises(CassetteLockedError):
            recover(journal_of(path), path)
        assert journal_of(path).read_bytes() == journal
        child.communicate("\n", timeout=30)
    assert child.returncode == 0
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await said(call_plainly(session, "tool", {"n": "of the child"})) == 'tool {"n": "of the child"}'
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_two_blocks_of_one_process_do_not_record_one_cassette(tmp_path: Path) -> None:
    path = tmp_path / "one.mcp.jsonl"
    with use_cassette(path, mode="rewrite"):
        with pytest.raises(CassetteLockedError), use_cassette(path, mode="rewrite"):
            pass
    with use_cassette(path, mode="rewrite"):
        pass


# Files.

HEADER = b'{"format":"mcp-cassette","version":1}\n'
CALL = b'{"n":1,"server":"w","request":"tools/call","params":{"name":"x","arguments":{}}}\n'
RESULT = b'{"n":1,"result":{"content":[]}}\n'
END = b'{"end":true}\n'


def holding(value: bytes) -> bytes:
    return HEADER + CALL + b'{"n":1,"result":{"content":[],"structuredContent":{"v":%s}}}\n' % value + END


DAMAGED: dict[str, tuple[bytes, int | None]] = {
    "empty": (b"", None),
    "cut short": (HEADER + CALL + RESULT, 3),
    "cut in a line": (HEADER + CALL + RESULT[:-5], 3),
    "a header only": (HEADER, 1),
    "no header": (CALL + RESULT + END, 1),
    "two headers": (HEADER + HEADER + END, 2),
    "another format": (b'{"format":"tape","version":1}\n' + END, 1),
    "a later version": (b'{"format":"mcp-cassette","version":2}\n' + END, 1),
    "version 0": (b'{"format":"mcp-cassette","version":0}\n' + END, 1),
    "binary": (bytes(range(256)) * 10, 1),
    "zeros": (bytes(1000), 1),
    "UTF-16": ((HEADER + END).decode().encode("utf-16"), 1),
    "Latin-1": (holding('"é"'.encode("latin-1")), 3),
    "a list": (HEADER + b"[]\n" + END, 2),
    "a number": (HEADER + b"5\n" + END, 2),
    "no kind": (HEADER + b'{"n":1}\n' + END, 2),
    "lines without an interaction": (HEADER + RESULT + END, 2),
    "lines of another interaction": (HEADER + CALL + b'{"n":2,"result":{}}\n' + END, 3),
    "two results": (HEADER + CALL + RESULT + RESULT + END, 4),
    "numbers that go down": (HEADER + CALL + RESULT + CALL + RESULT + END, 4),
    "something below the end": (HEADER + END + CALL, 3),
    "NaN": (holding(b"NaN"), 3),
    "Infinity": (holding(b"-Infinity"), 3),
    "a key misspelled": (HEADER + CALL.replace(b'"params"', b'"parms"') + RESULT + END, 2),
    "an integer of 5,000 digits": (holding(b"7" * 5000), 3),
    "nested 100,000 deep": (holding(b"[" * 100_000 + b"]" * 100_000), 3),
    "a number that is too large": (HEADER + CALL.replace(b'"n":1', b'"n":%d' % 10**30) + END, 2),
    "a number below 1": (HEADER + CALL.replace(b'"n":1', b'"n":0') + END, 2),
    "a number that is true": (HEADER + CALL.replace(b'"n":1', b'"n":true') + END, 2),
    "a lone surrogate as a method": (HEADER + CALL.replace(b"tools/call", b"\\ud800") + RESULT + END, 2),
    "an empty line": (HEADER + b"\n" + END, 2),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_with_its_line_and_left_alone(tmp_path: Path, name: str, mode: Any) -> None:
    content, line = DAMAGED[name]
    path = tmp_path / "damaged.mcp.jsonl"
    path.write_bytes(content)
    with pytest.raises(CassetteFormatError) as refused:
        with use_cassette(path, mode=mode):
            pass
    assert (refused.value.line, refused.value.path) == (line, path)
    assert len(str(refused.value)) < 1000 + len(str(path))
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 400 + b"]" * 400,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"[" * 990 + b"]" * 990,
        b"7" * 4000,
        b'"\\ud800"',
        b'{"\\udfff":"\\ud800x"}',
        b"1e400",
        b'{"$any":1,"x":2}',
        b'{"$literal":5}',
        b'{"$file":5}',
        b'{"$file":"../../etc/passwd","encoding":"text"}',
        b'{"$file":"0123456789abcdef.txt","encoding":"text"}',
        b'{"$file":"0123456789abcdef.txt"}',
        b'{"$file":["x"],"encoding":["text"]}',
    ],
    ids=lambda value: value[:24].decode(),
)
def test_what_is_hard_to_read_is_read_or_refused_as_what_it_is(tmp_path: Path, value: bytes) -> None:
    for content in (holding(value), holding(b"0").replace(b'"arguments":{}', b'"arguments":{"v":%s}' % value)):
        path = tmp_path / "hard.mcp.jsonl"
        path.write_bytes(content)
        try:
            file = CassetteFile(path)
        except CassetteFormatError as error:
            assert error.line in (2, 3)
            continue
        try:
            [interaction] = file
            assert interaction.method == "tools/call"
        except CassetteFormatError as error:
            assert error.line in (2, 3)
        finally:
            file.close()


@pytest.mark.parametrize("ends", [b"\r\n", b" \n"], ids=["CRLF", "spaces"])
async def test_a_file_that_an_editor_has_saved_replays(tmp_path: Path, ends: bytes) -> None:
    path = tmp_path / "edited.mcp.jsonl"
    await record_one(path, n=1)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", ends) + b"\n")
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await said(call_plainly(session, "tool", {"n": 1})) == 'tool {"n": 1}'


@pytest.mark.parametrize("damage", ["missing", "changed", "a folder"])
async def test_a_side_file_that_is_damaged_fails_the_call_and_the_block(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "side.mcp.jsonl"
    text = "x" * 100_000

    async def answer(frame: Frame) -> Frame:
        return {"content": [{"type": "text", "text": text}]}

    with use_cassette(path, mode="rewrite") as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = answer
            await call_plainly(session, "tool", {})
    [side] = folder_of(path).iterdir()
    side.unlink()
    if damage == "changed":
        side.write_text("y")
    elif damage == "a folder":
        side.mkdir()
    with pytest.raises(CassetteFormatError, match=side.name):
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                with pytest.raises(Error, match=side.name):
                    await call_plainly(session, "tool", {})


async def test_a_file_that_is_changed_while_it_replays_fails_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "changed.mcp.jsonl"
    await record_one(path, n=1, long=["x" * 1000] * 300)  # more than is read ahead
    with pytest.raises(CassetteFormatError):
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                content = path.read_bytes().splitlines(keepends=True)
                with open(path, "r+b") as file:  # in place, as some editors do it
                    file.write(b"".join(content[:1] + content[2:] + content[1:2]))
                with pytest.raises(Error):
                    await call_plainly(session, "tool", {"n": 1, "long": ["x" * 1000] * 300})


async def test_a_file_that_is_deleted_while_it_replays_goes_on_answering(tmp_path: Path) -> None:
    path = tmp_path / "deleted.mcp.jsonl"
    await record_one(path, n=1)
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            path.unlink()
            assert await said(call_plainly(session, "tool", {"n": 1})) == 'tool {"n": 1}'


async def test_a_placeholder_that_is_wrong_fails_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "regex.mcp.jsonl"
    await record_one(path, n=1)
    path.write_text(path.read_text().replace('{"n":1}', '{"n":{"$regex":"("}}'))
    with pytest.raises(CassetteError) as failed:
        with use_cassette(path, mode="none") as cassette:
            async with untaped(cassette) as session:
                with pytest.raises(Error):
                    await call_plainly(session, "tool", {"n": "one"})
    assert not isinstance(failed.value, CassetteMissError)
    assert "$regex" in str(failed.value)


def test_a_side_file_of_any_mime_type_reads_back(tmp_path: Path) -> None:
    files = SideFiles(tmp_path / "x.mcp.jsonl")
    blob = b64encode(bytes(range(256)) * 20).decode()
    known = sorted(set(mimetypes.MimeTypes().types_map[True].values()))
    for kind in [*known, "text/x-c++src", "application/manifest+json", "a/../../b", "", "/", "\0"]:
        value = {"contents": [{"uri": "x://y", "mimeType": kind, "blob": blob}]}
        assert files.load(files.store(value)) == value, kind
    assert {side.parent for side in files.folder.rglob("*")} == {files.folder}


@pytest.mark.parametrize("recorded", ["\n", "\r\n"])
def test_a_side_file_whose_lines_end_as_another_system_has_it_reads_back(tmp_path: Path, recorded: str) -> None:
    files = SideFiles(tmp_path / "x.mcp.jsonl")
    value = {"text": f"a line{recorded}" * 20_000}
    written = files.store(value)
    [file] = files.folder.iterdir()
    as_recorded = file.read_bytes()
    lf = as_recorded.replace(b"\r\n", b"\n")
    for checked_out in (lf, lf.replace(b"\n", b"\r\n")):
        file.write_bytes(checked_out)
        assert files.load(written) == value
    file.write_bytes(as_recorded.replace(b"line", b"LINE"))
    with pytest.raises(CassetteFormatError, match=r"restore it, .*`\*\.mcp\.files/\*\* -text"):
        files.load(written)


def test_a_binary_side_file_is_what_it_was_or_refused(tmp_path: Path) -> None:
    files = SideFiles(tmp_path / "x.mcp.jsonl")
    written = files.store({"mimeType": "image/png", "blob": b64encode(b"\x89PNG\n" * 1000).decode()})
    [file] = files.folder.iterdir()
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(CassetteFormatError, match="not what it was"):
        files.load(written)


def test_the_name_of_a_side_file_depends_on_no_table_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"mimeType": "application/x-acme", "blob": b64encode(bytes(5000)).decode()}
    mimetypes.init()
    here = SideFiles(tmp_path / "x.mcp.jsonl").store(value)
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())
    mimetypes.add_type("application/x-acme", ".acme")  # as /etc/mime.types may
    assert SideFiles(tmp_path / "x.mcp.jsonl").store(value) == here


# Names.


def test_names_that_name_no_file_are_refused_at_once(tmp_path: Path) -> None:
    for name in ("", "a\0b", f"{tmp_path}/", tmp_path, tmp_path / ("x" * 300), 5, b"x", None):
        with pytest.raises(InterceptError), use_cassette(name, mode="rewrite"):  # type: ignore[arg-type]
            pass
    assert list(tmp_path.iterdir()) == []


@posix
async def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "real.mcp.jsonl").write_bytes(HEADER + END)
    folder = tmp_path / "cassettes"
    folder.mkdir()
    (folder / "link.mcp.jsonl").symlink_to(outside / "real.mcp.jsonl")
    (folder / "dangling.mcp.jsonl").symlink_to(outside / "new.mcp.jsonl")
    (folder / "journal.mcp.jsonl.part").symlink_to(outside / "journal")
    (folder / "side.mcp.files").symlink_to(outside)
    for name in ("link", "dangling", "journal", "side"):
        path = folder / f"{name}.mcp.jsonl"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CassetteWarning)
            try:
                with use_cassette(path, mode="rewrite") as cassette:
                    async with taped(cassette) as (session, server):
                        server.answers["tools/call"] = saying
                        answer = await said(call_plainly(session, "tool", {"x": "y" * 100_000}))
                        assert answer.endswith('y"}')
            except CassetteError as error:
                assert "link" in str(error)
        assert [found.name for found in outside.iterdir()] == ["real.mcp.jsonl"], name
        assert (outside / "real.mcp.jsonl").read_bytes() == HEADER + END
        journal_of(path).unlink(missing_ok=True)
        with use_cassette(folder / f"{name}-again.mcp.jsonl", mode="rewrite"):
            pass


# Secrets.

SECRET = "sk-proj-Zk4x8QnLw2Rt6Yp0Vb3Mh7Jd9Sf1Ga5C"
PASSWORD = "hunter2-is-not-random"
VALUE = "the-very-value-of-a-variable"


@asynccontextmanager
async def leaking(cassette: Cassette, **options: Any) -> AsyncGenerator[tuple[Any, WireServer], None]:
    """A session with a server that repeats secrets wherever it can."""
    async with taped(cassette, **options) as (session, server):

        async def answer(frame: Frame) -> Frame | None:
            name = frame["params"]["name"]
            if name == "fail":
                data = {"authorization": f"Bearer {SECRET}", "password": PASSWORD, "env": VALUE}
                error = {"code": -32050, "message": f"no access with {SECRET} and {VALUE}", "data": data}
                await server.send({"jsonrpc": "2.0", "id": frame["id"], "error": error})
                return None
            token = frame["params"].get("_meta", {}).get("progressToken")
            if token is not None:
                said_ = {"progressToken": token, "progress": 1, "message": f"using {SECRET} {VALUE}"}
                await server.notify("notifications/progress", said_)
            await server.notify("notifications/message", {"level": "info", "data": {"token": SECRET, "v": VALUE}})
            if name == "ask":
                asked = {"mode": "form", "message": f"{SECRET} {VALUE}?", "requestedSchema": SCHEMA}
                await server.ask("elicitation/create", asked)
            text = json.dumps({"api_key": SECRET, "nested": json.dumps({"password": PASSWORD}), "v": VALUE})
            long = f"{VALUE} {SECRET} " + "x" * 100_000
            return {
                "content": [{"type": "text", "text": text}, {"type": "text", "text": long}],
                "structuredContent": {"password": PASSWORD, "url": f"https://u:{PASSWORD}@example.com/?token={SECRET}"},
            }

        server.answers["tools/call"] = answer
        yield session, server


async def confess(session: Any, password: str = PASSWORD) -> None:
    async def hear(*_: Any) -> None:
        pass

    arguments = {"api_key": SECRET, "password": password, "v": VALUE, "headers": {"Authorization": f"Bearer {SECRET}"}}
    await call_plainly(session, "tool", arguments)
    await session.call_tool("tool", arguments, progress_callback=hear)
    await call_plainly(session, "ask", {})
    await said(call_plainly(session, "fail", {"password": password}))


async def revealing(context: Any, params: Any) -> Any:
    return T.ElicitResult(action="accept", content={"password": PASSWORD, "note": f"{SECRET} {VALUE}"})


async def test_planted_secrets_are_in_no_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mcp_intercept")
    monkeypatch.setenv("ACME_PASS", VALUE)
    redaction = Redaction(env=["ACME_PASS"])
    path = tmp_path / "secret.mcp.jsonl"
    sinks: dict[str, str] = {}
    with use_cassette(path, mode="rewrite", redaction=redaction, timing=True) as cassette:
        async with leaking(cassette, elicitation_callback=revealing) as (session, _):
            await confess(session)
            sinks["journal"] = journal_of(path).read_text()
            sinks["repr while recording"] = repr(cassette)
    sinks["cassette"] = path.read_text()
    sinks |= {f"side file {side.name}": side.read_text() for side in folder_of(path).iterdir()}
    assert len(sinks) > 3
    with use_cassette(path, mode="none", redaction=redaction) as cassette:
        async with untaped(cassette, elicitation_callback=revealing) as session:
            await confess(session)
        assert not cassette.unused
        sinks["interactions"] = repr(cassette.interactions)
    for mode in each("none", "verify", "new_episodes"):
        try:
            with use_cassette(path, mode=mode, redaction=redaction) as cassette:
                async with leaking(cassette, elicitation_callback=revealing) as (session, server):
                    sent = await said(call_plainly(session, "other", {"password": PASSWORD, "key": SECRET, "v": VALUE}))
                    if mode == "none":
                        sinks["the error of a miss"] = sent
                    elif mode == "verify":
                        server.answers["tools/call"] = saying
                    await said(call_plainly(session, "tool", {"password": PASSWORD, "key": SECRET, "v": VALUE}))
        except CassetteError as error:  # noqa: PERF203 - each mode is a block of its own
            sinks[f"report of {mode}"] = f"{error} {error!r} {vars(error)}"
    assert {"report of none", "report of verify"} <= set(sinks)
    sinks["cassette with new episodes"] = path.read_text()
    sinks["log"] = caplog.text
    found = [(sink, secret) for sink, text in sinks.items() for secret in (SECRET, PASSWORD, VALUE) if secret in text]
    assert found == []


async def test_headers_environments_command_lines_and_urls_are_in_no_cassette(tmp_path: Path) -> None:
    path = tmp_path / "secret.mcp.jsonl"
    server = ROOT / "tests" / "server.py"
    with http_server() as url, use_cassette(path, mode="rewrite"):
        headers = {"Authorization": f"Bearer {SECRET}", "X-Acme": PASSWORD}
        async with connect(f"{url}?key={SECRET}", headers=headers) as session:
            await session.call_tool("add", {"a": 1, "b": 2})
        from mcp.client.stdio import StdioServerParameters

        # `-c` is what comes after the script, so it does nothing but stand there.
        params = StdioServerParameters(command=sys.executable, args=[str(server)], env={"ACME": PASSWORD})
        async with connect(params) as session:
            await session.call_tool("add", {"a": 1, "b": 2})
    text = path.read_text()
    assert text.count('"request":"initialize"') == 2
    for secret in (SECRET, PASSWORD, "127.0.0.1", str(ROOT), sys.executable):
        assert secret not in text


@pytest.mark.parametrize(
    "command", [[f"--token={SECRET}"], ["--token", SECRET], ["-e", f"KEY={PASSWORD}"], [f"https://u:{PASSWORD}@h/x"]]
)
def test_a_secret_in_a_command_line_is_in_no_name_of_a_server(tmp_path: Path, command: list[str]) -> None:
    from mcp_intercept._names import name_of

    for full in (["npx", *command], ["docker", "run", *command], ["python", *command, "server.py"]):
        assert SECRET not in name_of(full)
        assert PASSWORD not in name_of(full)


# Functions of the user's.


def failing(error: BaseException) -> Any:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def recursing(*arguments: Any) -> Any:
    return recursing(*arguments)


FAULTS = {"ValueError": failing(ValueError(SECRET)), "RecursionError": recursing, "MemoryError": failing(MemoryError())}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["redaction", "normalize"])
async def test_a_function_of_the_user_that_raises_harms_no_recorded_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str, place: str
) -> None:
    path = tmp_path / "fault.mcp.jsonl"
    options: Any = {place: Redaction(function=FAULTS[fault]) if place == "redaction" else FAULTS[fault]}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with use_cassette(path, mode="rewrite", **options) as cassette:
            async with taped(cassette, elicitation_callback=revealing) as (session, server):
                server.answers["tools/call"] = saying
                await session.send_progress_notification("t", 0.5, message="half")
                assert await said(call_plainly(session, "tool", {"text": "x"})) == 'tool {"text": "x"}'
                assert (await server.ask("elicitation/create", {"message": "?", "requestedSchema": SCHEMA}))["result"]
    if place == "redaction":
        # Rather nothing than what has not been redacted, and it says so.
        assert cassette.lost > 0
        assert any("not complete" in str(warning.message) for warning in warned)
        assert '"text":"x"' not in path.read_text()
        assert len([record for record in caplog.records if record.name == "mcp_intercept"]) == 1
    else:
        assert cassette.lost == 0  # it is for comparing only
    assert SECRET not in caplog.text


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["redaction", "normalize"])
async def test_a_function_of_the_user_that_raises_at_replay_fails_the_call_and_the_block_and_no_more(
    tmp_path: Path, fault: str, place: str
) -> None:
    path = tmp_path / "fault.mcp.jsonl"
    fails = False

    def sometimes(*arguments: Any) -> Any:
        if fails:
            return FAULTS[fault](*arguments)
        return arguments[-1] if place == "normalize" else None

    options: Any = {place: Redaction(function=sometimes) if place == "redaction" else sometimes}
    with use_cassette(path, mode="rewrite") as cassette:
        async with taped(cassette, elicitation_callback=revealing) as (session, server):

            async def answer(frame: Frame) -> Frame:
                asked = {"mode": "form", "message": "?", "requestedSchema": SCHEMA}
                await server.ask("elicitation/create", asked)
                return await saying(frame)

            server.answers["tools/call"] = answer
            await session.send_progress_notification("t", 0.5, message="half")
            await call_plainly(session, "tool", {"text": "x"})
    with pytest.raises((ValueError, RecursionError, MemoryError, CassetteError)):
        with use_cassette(path, mode="none", **options) as cassette:

            async def elicit(context: Any, params: Any) -> Any:
                nonlocal fails
                fails = True
                return await revealing(context, params)

            async with untaped(cassette, elicitation_callback=elicit) as session:
                fails = True
                await session.send_progress_notification("t", 0.5, message="half")  # raises nothing, as ever
                with pytest.raises(Error):
                    await call_plainly(session, "tool", {"text": "x"})
                fails = False
                with anyio.fail_after(30):
                    # Here it fails on what the client answers.
                    await said(call_plainly(session, "tool", {"text": "x"}))
                fails = False
                await session.send_ping()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_function_of_the_user_that_raises_while_verifying_harms_no_call_and_fails_the_block(
    tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "fault.mcp.jsonl"
    await record_one(path, text="x")
    for options in each({"redaction": Redaction(function=FAULTS[fault])}, {"normalize": FAULTS[fault]}):
        with pytest.raises((ValueError, RecursionError, MemoryError, CassetteError)):
            with use_cassette(path, mode="verify", **options) as cassette:
                async with taped(cassette) as (session, server):
                    server.answers["tools/call"] = saying
                    assert await said(call_plainly(session, "tool", {"text": "x"})) == 'tool {"text": "x"}'


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("levels", [100, 240, 300, 600, 900])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
async def test_an_answer_nested_deeply_harms_no_recorded_call(tmp_path: Path, levels: int, large: bool) -> None:
    path = tmp_path / "deep.mcp.jsonl"
    value = {"v": deep(levels), "x": "x" * 5000 if large else "$", "$any": 1}

    async def answer(frame: Frame) -> Frame | None:
        if frame["params"]["name"] == "fail":
            error = {"code": -32050, "message": "no", "data": value}
            await server_.send({"jsonrpc": "2.0", "id": frame["id"], "error": error})
            return None
        return {"content": [{"type": "text", "text": "deep"}], "structuredContent": value}

    async def use(session: Any) -> list[str]:
        return [await said(call_plainly(session, name, {})) for name in ("deep", "fail")]

    from tests.wire import wire

    async with wire() as (streams, server_):
        async with session_over(_given(streams)) as session:
            server_.answers["tools/call"] = answer
            try:
                bare = await use(session)
            except (ValueError, RecursionError):
                bare = []
    if not bare:
        pytest.skip("the SDK itself does not take it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CassetteWarning)
        with use_cassette(path, mode="rewrite") as cassette:
            async with taped(cassette) as (session, server_):
                server_.answers["tools/call"] = answer
                assert await use(session) == bare
    if cassette.lost:
        return
    with use_cassette(path, mode="none") as cassette:
        async with untaped(cassette) as session:
            assert await use(session) == bare


@asynccontextmanager
async def _given(streams: Any) -> AsyncGenerator[Any, None]:
    yield streams
