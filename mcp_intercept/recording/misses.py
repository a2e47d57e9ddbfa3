"""What a cassette has no answer to, told such that one knows what to do: `Miss`; and `Drift`, where it answered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from mcp_intercept._context import printable
from mcp_intercept.recording.interactions import title_of
from mcp_intercept.recording.looks import MARK, is_placeholder
from mcp_intercept.recording.matching import WITH_ARGUMENTS, Difference, shown

MISS_CODE: Final = -31404
"""The JSON-RPC error code of a miss: outside of what JSON-RPC reserves, so that no server or SDK sends it."""

# What is to be pasted: so many places, of so many characters each.
_MOST_PLACES: Final = 5
_LONGEST: Final = 200
_A_NAME: Final = re.compile(r"/[\w.-]+")

Reason: TypeAlias = Literal[
    "no cassette",
    "unknown server",
    "never recorded",
    "arguments differ",
    "used up",
    "out of order",
    "answer differs",
    "left waiting",
]
"""Why there is no answer.

- `"no cassette"`: the file does not exist.
- `"unknown server"`: nothing was recorded with a server of this name.
- `"never recorded"`: nothing like it was asked of the server.
- `"arguments differ"`: the same was called, with other arguments.
- `"used up"`: the very same was recorded, and has been given as often as it was.
- `"out of order"`: with `order="strict"`, something else comes next.
- `"answer differs"`: the client answers a request of the server otherwise than when it was recorded.
- `"left waiting"`: when it was recorded, the client did not wait for the answer, or the recording did not come to it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """A recorded interaction that is something like what was asked."""

    n: int
    """Its number in the cassette."""
    line: int
    """Where it begins in the file."""
    title: str
    """What it is: the method, and the name or URI."""
    used: bool
    """Whether it has been given as an answer already."""
    differences: tuple[Difference, ...] = ()
    """Where it differs, at most 20 places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The cassette, as a report names it."""

    path: Path
    mode: str
    mode_reason: str = ""
    """Why it is this mode, where nobody has asked for it."""
    recorded: int = 0
    """How many interactions it has."""
    unused: int = 0
    """How many of its requests have not been made."""
    option: str = ""
    """How the mode can be changed from outside, if it can."""
    way_out: str = ""
    """What to do about a miss where nobody has called `use_cassette()`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Something that a cassette has no answer to. `str()` of it is the report."""

    server: str
    """The name of the server that was asked."""
    method: str
    """The method on the wire."""
    name: str | None
    """The tool, prompt or resource that was asked for, if any."""
    params: dict[str, Any]
    """What counts of the params, redacted."""
    reason: Reason
    """Why there is no answer."""
    nearest: tuple[Nearest, ...] = ()
    """What was recorded that comes nearest, the nearest first."""
    servers: tuple[str, ...] = ()
    """The servers in the cassette."""
    elsewhere: tuple[str, ...] = ()
    """Those of them that were asked the very same."""
    source: Source
    """The cassette."""

    @property
    def title(self) -> str:
        """The method, and what it is about, on one line."""
        return title_of(self.method, self.name)

    def __str__(self) -> str:
        source = self.source
        mode = f"mode {source.mode!r}{f', {source.mode_reason}' if source.mode_reason else ''}"
        counts = f"{source.recorded} interactions, {source.unused} unused"
        has = "no such file" if self.reason == "no cassette" else counts
        lines = [
            f"The cassette does not know the client's answer to {self.title}"
            if self.reason == "answer differs"
            else f"No recorded answer to {self.title}",
            f"  server    {printable(self.server)}",
            *([f"  params    {shown(self.params, 400)}"] if self.params else []),
            f"  reason    {self.reason}{self._details()}",
            f"  cassette  {source.path} ({has}; {mode})",
        ]
        for position, near in enumerate(self.nearest):
            label = "nearest" if position == 0 else ""
            state = "used" if near.used else "unused"
            lines.append(f"  {label:<9} #{near.n} {near.title}, line {near.line}, {state}")
            lines += [f"              {difference}" for difference in near.differences[:5]]
            if len(near.differences) > 5:
                lines.append(f"              and {len(near.differences) - 5} more")
        return "\n".join([*lines, f"  way out   {self._way_out()}"])

    def _details(self) -> str:
        if self.elsewhere:
            return f"; the very same was recorded with {' and '.join(map(repr, self.elsewhere))}"
        if self.reason == "unknown server":
            return f"; the cassette has {', '.join(map(repr, self.servers)) or 'none'}"
        if self.reason == "used up":
            return f"; it was recorded {len(self.nearest)} time{'s' if len(self.nearest) > 1 else ''} and asked again"
        if self.reason == "left waiting":
            return "; when it was recorded, the client cancelled it or gave up, or the recording was cut short"
        return ""

    def _way_out(self) -> str:
        if self.source.way_out:
            return self.source.way_out
        option = self.source.option
        if self.reason == "no cassette":
            return (
                f"record it where the server is, with mode='once'{_from_outside(option, 'once')}, and commit the file"
            )
        if self.elsewhere or self.reason == "unknown server":
            return (
                "name it as it was then: cassette.transport(..., server=...), connect(..., connection_id=...) "
                "or use_cassette(..., servers={...})"
            )
        record = _record_what_is_new(option)
        found = self.nearest[0].differences if self.nearest else ()
        if self.reason == "answer differs":
            return f"answer as then, or {_record_again(option)}{_ignoring_results(self.method, found)}"
        if self.reason == "arguments differ" and any(
            MARK in difference.recorded or is_placeholder(difference.recorded.strip('"')) for difference in found
        ):
            return (
                "it was redacted: give the redaction that it was recorded or redacted with, redaction=Redaction(...), "
                f"and hand the server something under the same names, in env= or headers=; else {record}"
            )
        if self.reason == "arguments differ":
            return record + _ignoring(self.method, found)
        if self.reason == "left waiting":
            return f"give up as then, or {_record_again(option)}"
        if self.reason == "out of order":
            return "make the calls in the order of the cassette, or use order='any'"
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Something that is no longer as it was recorded."""

    server: str
    """The name of the server."""
    method: str
    """The method on the wire."""
    name: str | None
    """The tool, prompt or resource, if any."""
    n: int
    """The number of the interaction in the cassette; 0 where it has none."""
    differences: tuple[Difference, ...]
    """Where it differs, at most 20 places."""
    part: Literal["request", "answer"] = "answer"
    """Which part of it differs: what was asked (`order="tool"`), or what came of it (`mode="verify"`)."""
    option: str = ""
    """How the mode can be changed from outside, if it can."""

    def __str__(self) -> str:
        where = f"#{self.n} " if self.n else "not in the cassette: "
        title = f"{where}{title_of(self.method, self.name)} (server {printable(self.server)})"
        lines = [title, *(f"    {difference}" for difference in self.differences)]
        return "\n".join([*lines, f"  way out   {self._way_out()}"])

    def _way_out(self) -> str:
        if not self.n:
            return _record_what_is_new(self.option)
        if self.part == "request":
            return _record_again(self.option) + _ignoring(self.method, self.differences)
        about = self.name if self.name and len(self.name) <= _LONGEST else self.method
        return _record_again(self.option) + _ignoring_results(about, self.differences)


def _from_outside(option: str, mode: str) -> str:
    return f" ({option}{mode})" if option else ""


def _record_again(option: str) -> str:
    return f"record again with mode='rewrite'{_from_outside(option, 'rewrite')}"


def _record_what_is_new(option: str) -> str:
    return f"record what is new with mode='new_episodes', or all again with 'rewrite'{_from_outside(option, '...')}"


def _ignoring(method: str, found: Sequence[Difference]) -> str:
    """How to leave out what differs in a request; nothing if it cannot be."""
    places: list[str] = []
    for difference in found:
        place = difference.pointer.removeprefix("/arguments")
        if place == difference.pointer and place.count("/") == 1 and method in WITH_ARGUMENTS:
            return ""  # it is beside the arguments, and would be taken for one of them
        places.append(place[1:] if _A_NAME.fullmatch(place) else place)
    return _if_it_may_differ("ignore=", "", places)


def _ignoring_results(about: str, found: Sequence[Difference]) -> str:
    """How to leave out what differs in a result; nothing if it cannot be."""
    return _if_it_may_differ("ignore_results={" + repr(about) + ": ", "}", [difference.pointer for difference in found])


def _if_it_may_differ(before: str, after: str, places: Sequence[str]) -> str:
    first = places[:_MOST_PLACES]
    if any(place in ("", "/result", "/error") or len(place) > _LONGEST for place in first):
        return ""
    they, more = ("it" if len(places) == 1 else "they"), ", and so on" if len(places) > len(first) else ""
    return f"; if {they} may differ: {before}{list(first)!r}{after}{more}" if first else ""


def report(headline: str, parts: Sequence[object], most: int = 5) -> str:
    """Several reports in one.

    Args:
        headline: What they have in common.
        parts: The reports.
        most: How many to show.
    """
    shown_parts = [str(part) for part in parts[:most]]
    more = [f"... and {len(parts) - most} more"] if len(parts) > most else []
    return "\n\n".join([headline, *shown_parts, *more])
