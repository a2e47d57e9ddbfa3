"""Exchanges drawn as a timeline: who called what, when, how long it took, and how it ended.

Pure functions from exchanges to what `rich` can print; knows nothing of the demo. All text in an exchange may come
from a server, so none of it reaches the terminal before `plain` has made it harmless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import floor, log10
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, OverflowMethod, RenderResult
from rich.text import Text

from mcp_intercept._context import Direction, Exchange, MCPResponseContext, MiddlewareContext, Outcome

_STYLES: dict[Outcome, str] = {
    "ok": "green",
    "tool_error": "yellow",
    "error": "red",
    "timeout": "magenta",
    "cancelled": "cyan",
}
_GAP = "  "
# Names give way to the bars first, the bars to the numbers never.
_MIN_NAME, _MAX_NAME, _MIN_BAR = 12, 44, 12
# What a label of the axis takes, with some air.
_LABEL_WIDTH = 8
_MAX_CHARACTERS = 200
_SHORTEST_SPAN = 1e-3


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """The characters to draw with."""

    incoming: str
    whole: str
    left: str
    right: str
    grid: str
    reason: str
    times: str


_LINES = _Glyphs("← ", "━", "╸", "╺", "┊", "╰ ", "×")  # noqa: RUF001 - meant as it is
_ASCII = _Glyphs("< ", "=", "=", "=", ":", "\\ ", "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One message, as it is drawn."""

    direction: Direction
    method: str
    target: str
    """What the method is about: the tool, the prompt, the resource; else empty."""
    attempts: int
    start: float
    """Seconds since the first message."""
    duration: float
    """Seconds."""
    outcome: Outcome
    reason: str
    """Why it failed, else empty."""


def timeline(exchanges: Iterable[Exchange]) -> Timeline:
    """A chart of the messages in the order they started, with a bar for each on a common axis of time.

    Args:
        exchanges: What `MiddlewareManager.capture` collected, in any order.

    Returns:
        Something for `rich` to print. It takes the whole width, and draws in ASCII where the output asks for it.
    """
    return Timeline(_rows(exchanges))


def summary(exchanges: Iterable[Exchange]) -> Text:
    """One line: how many messages, in how much time, how many at once, and how they ended."""
    rows = _rows(exchanges)
    count = len(rows)
    text = Text(f"{count} message{'' if count == 1 else 's'}", "bold")
    if not rows:
        return text
    text.append(f" in {_duration(_span(rows))}, up to {_most_at_once(rows)} at once", "not bold")
    separator = ": "
    outcomes = Counter(row.outcome for row in rows)
    for outcome, style in _STYLES.items():
        if outcomes[outcome]:
            text.append(separator, "not bold").append(f"{outcomes[outcome]} {outcome}", style)
            separator = ", "
    return text


class Timeline:
    """The chart that `timeline` returns."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line for the heading and each message, and one for each reason of a failure."""
        if not self._rows:
            yield Text("no messages", "dim")
            return
        plain = options.ascii_only or options.legacy_windows
        chart = _Chart(self._rows, options.max_width, _ASCII if plain else _LINES)
        yield chart.heading()
        for row in self._rows:
            yield from chart.lines(row)


class _Chart:
    """The layout of one timeline at one width."""

    def __init__(self, rows: Sequence[_Row], width: int, glyphs: _Glyphs) -> None:
        self._glyphs = glyphs
        # The ellipsis is no ASCII.
        self._overflow: OverflowMethod = "crop" if glyphs is _ASCII else "ellipsis"
        self._start_width = _widest("start", (_duration(row.start) for row in rows))
        self._took_width = _widest("took", (_duration(row.duration) for row in rows))
        self._outcome_width = _widest("outcome", (row.outcome for row in rows))
        fixed = self._start_width + self._took_width + self._outcome_width + 4 * len(_GAP)
        longest = min(max(self._name(row).cell_len for row in rows), _MAX_NAME)
        self._name_width = max(min(longest, width - fixed - _MIN_BAR), _MIN_NAME)
        self._bar_width = max(width - fixed - self._name_width, 1)
        self._span = max(_span(rows), _SHORTEST_SPAN)
        self._ticks = dict(_ticks(self._span, self._bar_width))

    def heading(self) -> Text:
        axis = ""
        for cell, label in self._ticks.items():
            axis = axis.ljust(cell) + label
        heading = self._line(Text("message"), "start", "took", "outcome", Text(axis), "")
        heading.stylize("dim")
        return heading

    def lines(self, row: _Row) -> Iterator[Text]:
        style = _STYLES[row.outcome]
        yield self._line(
            self._name(row), _duration(row.start), _duration(row.duration), row.outcome, self._bar(row, style), style
        )
        if row.reason:
            reason = f"{_GAP}{self._glyphs.reason}{self._spelled(row.reason)}"
            yield Text(reason, style, no_wrap=True, overflow=self._overflow)

    def _line(self, name: Text, start: str, took: str, outcome: str, bar: Text, style: str) -> Text:
        name.truncate(self._name_width, overflow=self._overflow, pad=True)
        line = Text(no_wrap=True, overflow="crop").append_text(name)
        line.append(f"{_GAP}{start:>{self._start_width}}", "dim")
        line.append(f"{_GAP}{took:>{self._took_width}}")
        line.append(f"{_GAP}{outcome:<{self._outcome_width}}{_GAP}", style).append_text(bar)
        line.rstrip()
        return line

    def _name(self, row: _Row) -> Text:
        name = Text(self._glyphs.incoming if row.direction == "incoming" else "")
        name.append(self._spelled(row.method), "dim" if row.target else "")
        if row.target:
            name.append(f" {self._spelled(row.target)}", "bold")
        if row.attempts > 1:
            name.append(f" {self._glyphs.times}{row.attempts}")
        return name

    def _spelled(self, text: str) -> str:
        # Output that cannot show the lines can show no foreign letters either, and would fail on them.
        return text.encode("ascii", "backslashreplace").decode() if self._glyphs is _ASCII else text

    def _bar(self, row: _Row, style: str) -> Text:
        """The bar, in steps of half a cell; what takes no time is still seen."""
        halves = 2 * self._bar_width
        scale = halves / self._span
        begin = min(floor(row.start * scale), halves - 1)
        end = max(min(round((row.start + row.duration) * scale), halves), begin + 1)
        bar = Text()
        for cell in range(self._bar_width):
            left, right = begin <= 2 * cell < end, begin <= 2 * cell + 1 < end
            if left or right:
                glyphs = self._glyphs
                bar.append(glyphs.whole if left and right else glyphs.left if left else glyphs.right, style)
            else:
                bar.append(self._glyphs.grid if cell in self._ticks else " ", "dim")
        return bar


def _rows(exchanges: Iterable[Exchange]) -> list[_Row]:
    in_order = sorted(exchanges, key=lambda exchange: exchange.context.timestamp)
    origin = in_order[0].context.timestamp if in_order else 0.0
    return [_row(context, response, origin) for context, response in in_order]


def _row(context: MiddlewareContext[Any], response: MCPResponseContext, origin: float) -> _Row:
    params = context.params
    target = getattr(params, "name", None) or getattr(params, "uri", None) or ""
    return _Row(
        direction=context.direction,
        method=plain(context.method),
        target=plain(target),
        attempts=context.attempt,
        start=context.timestamp - origin,
        duration=response.duration,
        outcome=response.outcome,
        reason=plain(_reason(response)),
    )


def _reason(response: MCPResponseContext) -> object:
    """What the server said of a failure, as far as it said anything."""
    outcome, error = response.outcome, response.error
    if outcome == "tool_error":
        blocks = getattr(response.result, "content", ())
        return next((text for block in blocks if (text := getattr(block, "text", ""))), "")
    # A cancellation has no reason but the caller's.
    return "" if error is None or outcome == "cancelled" else str(error) or type(error).__name__


def plain(value: object) -> str:
    """Text that does nothing to a terminal: on one line, printable, and not too long."""
    text = str(value)[:_MAX_CHARACTERS]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split(" ")))


def _widest(heading: str, cells: Iterable[str]) -> int:
    return max(map(len, (heading, *cells)))


def _span(rows: Sequence[_Row]) -> float:
    return max(row.start + row.duration for row in rows)


def _most_at_once(rows: Sequence[_Row]) -> int:
    # Where the instants are the same, an end comes first; but for the end of what took no time.
    starts = [(row.start, 1, 1) for row in rows]
    ends = [(row.start + row.duration, 0 if row.duration else 2, -1) for row in rows]
    return max(accumulate(change for _, _, change in sorted(starts + ends)))


def _ticks(span: float, width: int) -> Iterator[tuple[int, str]]:
    """Where the axis is labelled, and with what: round numbers, with room for their labels."""
    step = _round_step(span * _LABEL_WIDTH / width)
    for number in range(floor(span / step) + 1):
        cell, label = floor(number * step / span * width), _label(number * step)
        if cell + cell_len(label) <= width:
            yield cell, label


def _round_step(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not less than `least`."""
    power = 10.0 ** floor(log10(least))
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= least)


def _label(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 or not seconds else f"{seconds * 1e3:g} ms"


def _duration(seconds: float) -> str:
    """At most seven characters, for up to a week."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f} ms" if 0 < seconds < 9.95e-3 else f"{seconds * 1e3:.0f} ms"
    return (
        f"{seconds:.2f} s"
        if seconds < 99.995
        else f"{seconds:.0f} s"
        if seconds < 9999.5
        else f"{seconds / 60:.0f} min"
    )
