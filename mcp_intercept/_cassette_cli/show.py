"""`cassette show`: what was said, a line for each event, for people to read.

All text may come from a server, so none of it reaches the terminal before it has been made harmless.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console, ConsoleOptions, OverflowMethod, RenderResult
from rich.text import Text

from mcp_intercept._cassette_cli.lines import (
    Selection,
    bytes_in_words,
    counted,
    opened,
    outcome_of,
    seconds_of,
    size_of,
)
from mcp_intercept._context import printable
from mcp_intercept.recording.eras import is_question, questions_in
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.matching import shown
from mcp_intercept.recording.values import is_array, is_object

_STYLES: Final = {
    "ok": "green",
    "asks": "blue",
    "tool_error": "yellow",
    "error": "red",
    "closed": "red",
    "unanswered": "magenta",
    "cancelled": "cyan",
    "-": "dim",
}
_MOST_CHARACTERS: Final = 200


class _Glyphs(NamedTuple):
    nested: str
    answer: str


_LINES = _Glyphs("╰ ", "→")
_ASCII = _Glyphs("\\ ", "->")


class _Event(NamedTuple):
    """Something beneath an interaction."""

    label: str
    about: str
    answer: str = ""
    """What the client answered."""
    style: str = "dim"


class _Row(NamedTuple):
    """An interaction, as it is drawn."""

    number: str
    outcome: str
    size: str
    took: str
    method: str
    name: str
    arguments: str
    events: list[_Event]


def show(path: Path, selection: Selection, *, full: bool) -> int:
    """Print them.

    Args:
        path: The cassette.
        selection: Which interactions.
        full: Whether to cut nothing short, and show results.

    Returns:
        The exit code.
    """
    with opened(path) as file:
        words = _Words(sys.maxsize if full else _MOST_CHARACTERS, results=full)
        lanes: dict[tuple[str, int], list[_Row]] = {}
        size = 0
        for place, interaction in selection.of(file):
            bytes_of_it = size_of(file, place)
            size += bytes_of_it
            lane = lanes.setdefault((interaction.server, interaction.connection), [])
            lane.append(words.row(interaction, bytes_of_it))
        console = Console()
        console.print(_Chart(lanes, full=full), soft_wrap=full, end="")
        console.print(_summary(lanes, size), soft_wrap=True)
        if file.lost:
            console.print(
                Text(f"{counted(file.lost, 'message')} could not be written when it was recorded", "yellow"),
                soft_wrap=True,
            )
    return 0


class _Chart:
    """The lanes, one below the other."""

    def __init__(self, lanes: dict[tuple[str, int], list[_Row]], *, full: bool) -> None:
        self._lanes = lanes
        self._full = full

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line for each lane, interaction and event."""
        plain = options.ascii_only or options.legacy_windows
        glyphs = _ASCII if plain else _LINES
        # The ellipsis is no ASCII; and what is shown in full is as wide as it is.
        overflow: OverflowMethod = "ignore" if self._full else "crop" if plain else "ellipsis"
        rows = [row for lane in self._lanes.values() for row in lane]
        widths = [max(map(len, column), default=0) for column in zip(*(row[:4] for row in rows), strict=True)]
        for (server, connection), lane in self._lanes.items():
            title = printable(server) + (f", connection {connection}" if connection > 1 else "")
            for line in (Text(title, "bold underline"), *_lines(lane, widths, glyphs)):
                line.no_wrap, line.overflow = True, overflow
                if plain:
                    # Output that cannot show the lines can show no foreign letters either, and would fail on them.
                    line.plain = line.plain.encode("ascii", "backslashreplace").decode()
                yield line
            yield Text()


def _lines(lane: list[_Row], widths: list[int], glyphs: _Glyphs) -> Iterator[Text]:
    number, outcome, size, took = widths
    for row in lane:
        line = Text(f"{row.number:>{number}}  ", "dim")
        line.append(f"{row.outcome:<{outcome}}  ", _STYLES[row.outcome])
        line.append(f"{row.size:>{size}}  ", "dim not bold")
        if took:
            line.append(f"{row.took:>{took}}  ", "not dim")
        margin = " " * len(line)
        line.append(row.method, "dim" if row.name else "not dim")
        if row.name:
            line.append(f" {row.name}", "bold not dim")
        line.append(f" {row.arguments}" if row.arguments else "", "not dim")
        yield line
        for event in row.events:
            line = Text(f"{margin}{glyphs.nested}{event.label}", event.style)
            line.append(f" {event.about}" if event.about else "")
            line.append(f" {glyphs.answer} {event.answer}" if event.answer else "")
            yield line


def _summary(lanes: dict[tuple[str, int], list[_Row]], size: int) -> Text:
    rows = [row for lane in lanes.values() for row in lane]
    text = Text(counted(len(rows), "interaction"), "bold")
    servers = len({server for server, _ in lanes})
    text.append(f" with {counted(servers, 'server')}, {bytes_in_words(size)}", "not bold")
    separator = ": "
    outcomes = Counter(row.outcome for row in rows)
    for outcome, style in _STYLES.items():
        if outcomes[outcome] and outcome != "-":
            text.append(separator, "not bold").append(f"{outcomes[outcome]} {outcome}", style)
            separator = ", "
    return text


class _Words:
    """Says what is in an interaction.

    Args:
        limit: How many characters of each value to show.
        results: Whether to show results.
    """

    def __init__(self, limit: int, *, results: bool) -> None:
        self._limit = limit
        self._results = results

    def row(self, interaction: Interaction, size: int) -> _Row:
        """An interaction."""
        seconds = seconds_of(interaction)
        return _Row(
            number=f"#{interaction.n}",
            outcome=outcome_of(interaction),
            size=bytes_in_words(size),
            took="" if seconds is None else f"{seconds:.3f} s" if seconds < 99.9995 else f"{seconds:.0f} s",
            method=self._plain(interaction.method),
            name=self._plain(interaction.name or ""),
            arguments=self._arguments(interaction),
            events=[told for event in interaction.events for told in self._event(interaction, event)],
        )

    def _plain(self, text: str) -> str:
        return printable(text, self._limit) + ("…" if len(text) > self._limit else "")

    def _json(self, value: Any) -> str:
        return shown(value, self._limit)

    def _arguments(self, interaction: Interaction) -> str:
        params = interaction.params or {}
        if interaction.method in ("tools/call", "prompts/get"):
            others = {key: params[key] for key in params if key not in ("name", "arguments")}
            told = [value for value in (params.get("arguments"), others) if value]
        elif interaction.name is not None:
            told = [others] if (others := {key: params[key] for key in params if key not in ("uri", "name")}) else []
        else:
            told = [params] if params else []
        if interaction.method == "initialize" and not self._results:
            return self._plain(str(params.get("protocolVersion", "")))
        return " ".join(map(self._json, told))

    def _event(self, interaction: Interaction, event: dict[str, Any]) -> Iterator[_Event]:
        if "server_notification" in event:
            yield self._notification(event["server_notification"], event.get("params") or {})
        elif "server_request" in event:
            yield self._request(event["server_request"], event.get("params") or {}, self._answer(event))
        elif "error" in event:
            error = event["error"]
            yield _Event(str(error["code"]), self._plain(error["message"]), style="red")
            if self._results and "data" in error:
                yield _Event("data", self._json(error["data"]))
        elif "closed" in event:
            yield _Event(self._plain(event["closed"]), "", style="red")
        elif "result" in event:
            yield from self._result(interaction, event["result"])

    def _result(self, interaction: Interaction, result: dict[str, Any]) -> Iterator[_Event]:
        if is_question(result):
            for asked in questions_in(result).values():
                yield self._request(str(asked["method"]), asked.get("params") or {}, "")
        if self._results:
            yield _Event("result", self._json(result))
        elif outcome_of(interaction) == "tool_error":
            blocks: Any = result.get("content")
            texts = [block.get("text") for block in blocks if is_object(block)] if is_array(blocks) else []
            said = next((text for text in texts if isinstance(text, str) and text), "")
            if said:
                yield _Event(self._plain(said), "", style="yellow")

    def _notification(self, method: str, params: dict[str, Any]) -> _Event:
        about = self._json(params) if params else ""
        if method == "notifications/progress" and not self._results:
            progress, total = self._json(params.get("progress")), params.get("total")
            about = (
                f"{progress}{'' if total is None else f'/{self._json(total)}'} {params.get('message') or ''}".rstrip()
            )
        elif method == "notifications/message" and not self._results:
            data = params.get("data")
            about = f"{params.get('level')}: {data if isinstance(data, str) else self._json(data)}"
        return _Event(self._plain(method), self._plain(about))

    def _request(self, method: str, params: dict[str, Any], answer: str) -> _Event:
        message = params.get("message")
        short = isinstance(message, str) and not self._results
        return _Event(self._plain(method), self._json(message if short else params) if params else "", answer, "blue")

    def _answer(self, event: dict[str, Any]) -> str:
        if "client_error" in event:
            error = event["client_error"]
            return self._plain(f"refused: {error['code']} {error['message']}")
        if "client_result" in event:
            result: dict[str, Any] = event["client_result"]
            action = result.get("action")
            if event["server_request"] == "elicitation/create" and isinstance(action, str) and not self._results:
                content = result.get("content")
                return self._plain(action) + (f" {self._json(content)}" if content else "")
            return self._json(result)
        return "withdrawn" if "withdrawn" in event else "no answer"
