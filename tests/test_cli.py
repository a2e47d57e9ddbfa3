"""The command, as a shell sees it: what it prints, and its exit codes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from mcp_intercept import connect
from mcp_intercept._cli import main

COMMAND = [sys.executable, "-m", "mcp_intercept"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_demo_shows_what_passed_and_how_it_ended(loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--loop", loop]) == 0
    shown = capsys.readouterr().out
    for line in ("travel-desk over stdio", f"mcp {version('mcp')}, {loop}", "tools/call find_rooms", "fully booked"):
        assert line in shown
    assert "9 messages in" in shown
    assert "8 ok, 1 tool_error" in shown
    assert "up to 2 at once" in shown
    assert "async with connect(" in shown


def test_the_demo_is_plain_text_in_a_pipe_and_ascii_where_nothing_else_can_be_shown() -> None:
    piped = run("demo", PYTHONIOENCODING="utf-8")
    assert (piped.returncode, piped.stderr) == (0, "")
    assert "\x1b" not in piped.stdout
    ascii_only = run("demo", PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")
    assert ascii_only.stdout.isascii()


def test_a_reader_who_leaves_is_no_reason_for_a_traceback() -> None:
    with subprocess.Popen([*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the server in /proc")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_ctrl_c_ends_the_demo_without_a_traceback(loop: str) -> None:
    # The demo is interrupted as soon as its server, a process of its own, is there.
    with subprocess.Popen(
        [*COMMAND, "demo", "--loop", loop], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not children_of(process.pid):
            assert process.poll() is None
        server = os.pidfd_open(int(children_of(process.pid)[0]))
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"Traceback" not in out + error
        ended, _, _ = select.select([server], [], [], 30)
        os.close(server)
        assert ended, "the server lives on"


def children_of(pid: int) -> list[str]:
    # Of all its threads: trio starts processes in one of its own.
    return " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()


def test_a_missing_extra_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mcp_intercept._cli.find_spec", lambda name: None)
    assert main(["demo"]) == 2
    explained = capsys.readouterr().err
    assert 'mcp-intercept demo needs an optional dependency that is not installed; the extra "cli"' in explained
    assert 'pip install "mcp-intercept-sdk[cli]"' in explained


def test_a_missing_event_loop_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mcp_intercept._cli.find_spec", lambda name: name == "rich" or None)
    assert main(["demo", "--loop", "trio"]) == 2
    assert "trio is not installed: pip install trio" in capsys.readouterr().err


def test_an_error_of_the_demo_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        main(["demo"])


@pytest.mark.anyio
async def test_the_demo_server_can_be_connected_to() -> None:
    async with connect([*COMMAND, "demo-server"]) as session:
        result: Any = await session.call_tool("forecast", {"city": "Oslo"})
        assert result.content[0].text.startswith("Oslo")


def test_the_demo_server_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.run([*COMMAND, "demo-server"], stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert process.returncode == 0


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def only_mcp(name: str) -> str:
        if name != "mcp":
            raise PackageNotFoundError(name)
        return version(name)

    for expected in (f"mcp-intercept {version('mcp-intercept-sdk')}", "mcp-intercept (not installed)"):
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"{expected} (mcp {version('mcp')})\n"
        monkeypatch.setattr("mcp_intercept._cli.version", only_mcp)


def test_no_command_and_an_unknown_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in ([], "which command? try: mcp-intercept demo"), (["dance"], "invalid choice: 'dance'"):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert complaint in capsys.readouterr().err
