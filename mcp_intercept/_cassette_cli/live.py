"""`cassette verify` with a server: whether a cassette is still true of it.

What the server says is recorded like any other session, into a file that is thrown away, and compared from there.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import anyio
import mcp.types as types

from mcp_intercept._cassette import use_cassette
from mcp_intercept._cassette_cli.diff import CallChange, FailOn, ServerChange, call_changes, surface_changes, tell
from mcp_intercept._cassette_cli.lines import TERMINAL, counted, opened, say, server_in
from mcp_intercept._connect import Mode, connect
from mcp_intercept._context import printable
from mcp_intercept._groups import leaves
from mcp_intercept._sdk import line, transports
from mcp_intercept.errors import InterceptError
from mcp_intercept.recording.compatibility import Change
from mcp_intercept.recording.eras import is_question
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.known import secrets_within
from mcp_intercept.recording.looks import is_placeholder
from mcp_intercept.recording.matching import holds_placeholder
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.values import is_array, is_object

Calls = Literal["none", "reading", "all"]

_LISTS: Final[Mapping[str, tuple[str, str]]] = {
    "tools/list": ("list_tools", "capability tools"),
    "prompts/list": ("list_prompts", "capability prompts"),
    "resources/list": ("list_resources", "capability resources"),
    "resources/templates/list": ("list_resource_templates", "capability resources"),
}
_MOST_PAGES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """What the live server is handed beside messages. None of these values is printed."""

    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """HTTP headers, for a URL."""
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Environment variables, for a command."""
    parts: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """What headers are made of, by the names of variables."""

    def redactor(self) -> Redactor:
        """What takes these values out, under whatever names, and nothing else."""
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        named = [*headers, *self.env.items(), *self.parts.items()]
        redactor = Redactor(Redaction(env=[name for name, _ in named], defaults=False), {})
        redactor.also([*named, *((name, part) for name, value in named for part in secrets_within(name, value))])
        return redactor


def verify_live(
    path: Path,
    server: str | None,
    target: Any,
    handed: Handed,
    *,
    calls: Calls,
    timeout: float,
    fail_on: FailOn,
    as_json: bool,
) -> int:
    """Compare a cassette with a live server, and print what is no longer so.

    Args:
        path: The cassette.
        server: Which server in it; it may be left out if there is one.
        target: The command that starts the server, or its URL.
        handed: What it is handed beside that.
        calls: Which of the recorded calls of tools to make again: none, those that only read, or all.
        timeout: Seconds that each answer may take.
        fail_on: What makes the exit code 1.
        as_json: Whether to print JSON.

    Returns:
        The exit code.

    Raises:
        InterceptError: The server cannot be talked to.
    """
    with opened(path) as recorded, TemporaryDirectory(prefix="mcp-intercept-") as folder:
        name = server_in(recorded, server)
        session = _Live(name, [one for one in recorded if one.server == name], calls, handed)
        live_path = Path(folder) / "live.mcp.jsonl"
        failure: BaseException | None = None
        with _unmentioned(live_path), use_cassette(live_path, mode="rewrite"):
            try:
                anyio.run(session.run, target, timeout)
            except (Exception, KeyboardInterrupt) as error:
                failure = error  # out of here first, as nobody has to be told that this recording was interrupted
        if isinstance(failure, Exception):
            raise InterceptError(f"the server cannot be talked to: {session.said(failure)}") from failure
        if failure is not None:
            raise failure
        with opened(live_path) as live:
            now = list(map(session.without_secrets, live))
    # Of both sides, as what they have in common is no change.
    before, repeated = (list(map(session.without_secrets, each)) for each in (session.recorded, session.repeated))
    surface = [*session.changes, *surface_changes(before, now, name)]
    changed: list[CallChange] = []
    if calls != "none":
        changed = list(call_changes(list(map(_bare, repeated)), [_bare(one) for one in now if _is_call(one)]))
    code = tell(surface, changed, fail_on=fail_on, as_json=as_json)
    if calls != "none" and not as_json:
        say(f"{counted(len(session.repeated), 'call')} made again")
        for reason, skipped in session.skipped.items():
            say(f"{counted(len(skipped), 'call')} not made, as {reason}: {_numbers(skipped)}")
    return code


@contextmanager
def _unmentioned(path: Path) -> Generator[None, None, None]:
    """Log nothing about a file that nobody else knows."""

    def is_about_others(record: logging.LogRecord) -> bool:
        return str(path) not in record.getMessage()

    logger = logging.getLogger("mcp_intercept")
    logger.addFilter(is_about_others)
    try:
        yield
    finally:
        logger.removeFilter(is_about_others)


class _Live:
    """A session with the live server.

    Args:
        name: The name of the server in the cassette.
        recorded: What was said to it then.
        calls: Which calls to make again.
        handed: What the server is handed.
    """

    def __init__(self, name: str, recorded: Sequence[Interaction], calls: Calls, handed: Handed) -> None:
        self.recorded = recorded
        self.changes: list[ServerChange] = []
        """Lists that are refused now."""
        self.repeated: list[Interaction] = []
        """The recorded calls that were made again."""
        self.skipped: dict[str, list[Interaction]] = {}
        """Those that were not, by the reason."""
        self._name = name
        self._calls = calls
        self._handed = handed
        self._redactor = handed.redactor()

    async def run(self, target: Any, patience: float) -> None:
        """Ask for all that was listed then, and make the calls."""
        asked = {one.method for one in self.recorded if one.result is not None}
        mode: Mode = "auto" if "server/discover" in asked and "initialize" not in asked else "legacy"
        headers = self._handed.headers
        if self._handed.env:
            command, *args = target
            target = transports.StdioServerParameters(command=command, args=args, env=dict(self._handed.env))
        async with connect(target, connection_id=self._name, timeout=patience, mode=mode, headers=headers) as session:
            tools: list[Any] = []
            for method, (function, subject) in _LISTS.items():
                if method in asked or (method == "tools/list" and self._calls != "none"):
                    entries = await self._listed(session, method, function, subject)
                    tools += entries if method == "tools/list" else []
            if self._calls != "none":
                reading = {tool.name for tool in tools if _only_reads(tool)}
                for call in filter(_is_call, self.recorded):
                    reason = self._why_not(call, reading)
                    if reason:
                        self.skipped.setdefault(reason, []).append(call)
                    else:
                        self.repeated.append(call)
                        await _make(session, call)

    async def _listed(self, session: Any, method: str, function: str, subject: str) -> list[Any]:
        entries: list[Any] = []
        cursor: str | None = None
        try:
            for _ in range(_MOST_PAGES):
                params = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
                page = await getattr(session, function)(params=params)
                entries += getattr(page, "tools", ())
                cursor = line.next_cursor_of(page)
                if cursor is None:
                    break
        except line.Error as error:
            detail = f"{method} is refused now: {self._redactor.text(str(error))}"
            change = Change(kind="breaking", subject=subject, pointer="", detail=detail)
            self.changes.append(ServerChange(server=self._name, change=change))
        return entries

    def without_secrets(self, one: Interaction) -> Interaction:
        """An interaction, with its answer, without what the server was handed."""
        events = list(one.events)
        for i, event in enumerate(events):
            if "result" in event:
                events[i] = {**event, "result": self._redactor.result(one.method, event["result"])}
            elif "error" in event:
                events[i] = {**event, "error": self._redactor.error(event["error"])}
        return replace(one, params=self._redactor.params(one.method, one.params), events=events)

    def said(self, error: BaseException) -> str:
        """What has failed, in words."""
        leaf = leaves(error)[0]
        said = next(iter(self._redactor.text(str(leaf)).splitlines()), "")  # others say more below
        return printable(f"{type(leaf).__name__}{said and f': {said}'}", 500)

    def _why_not(self, call: Interaction, reading: set[str]) -> str:
        if self._calls != "all" and call.name not in reading:
            return "their tools do not say that they only read"
        if any("server_request" in event for event in call.events) or is_question(call.result or {}):
            return "the server would ask something"
        if "inputResponses" in (call.params or {}):
            return "the server would ask something"
        if TERMINAL.isdisjoint({key for event in call.events for key in event} - {"cancelled", "closed"}):
            return "they were not answered"
        if holds_placeholder(call.params) or _holds_redacted(call.params):
            return "not all that was sent is in the cassette"
        return ""


def _is_call(one: Interaction) -> bool:
    return one.kind == "request" and one.method == "tools/call" and one.name is not None


def _only_reads(tool: Any) -> bool:
    said: dict[str, Any] = tool.model_dump(by_alias=True, mode="json")
    annotations: dict[str, Any] = said.get("annotations") or {}
    return annotations.get("readOnlyHint") is True


def _holds_redacted(value: Any) -> bool:
    if is_object(value):
        return any(map(_holds_redacted, value.values()))
    if is_array(value):
        return any(map(_holds_redacted, value))
    return isinstance(value, str) and len(value) > 1 and (is_placeholder(value) or "REDACTED" in value)


async def _make(session: Any, call: Interaction) -> None:
    assert call.params is not None  # noqa: S101 - it has a name
    try:
        await session.call_tool(call.name, call.params.get("arguments"))
    except line.Error:
        pass  # it is in the recording
    except RuntimeError:
        pass  # of the SDK, which does not take the answer; that, too, is in the recording


def _bare(call: Interaction) -> Interaction:
    """A call with its answer only: progress and the like depend on who asks, and when."""
    ends = [event for event in call.events if not TERMINAL.isdisjoint(event)]
    return Interaction(call.n, call.server, 1, call.kind, call.method, call.params, ends)


def _numbers(calls: Sequence[Interaction]) -> str:
    told = ", ".join(f"#{call.n} {call.title}" for call in calls[:5])
    return told + (", ..." if len(calls) > 5 else "")
