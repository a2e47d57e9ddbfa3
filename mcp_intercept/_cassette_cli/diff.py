"""`cassette diff`: what has changed in what servers offer, and in what was said to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mcp_intercept._cassette_cli.lines import TERMINAL, check_server, counted, opened, say, say_json
from mcp_intercept._context import printable
from mcp_intercept.recording.compatibility import Change, compare
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.matching import REPEATED, Difference, Rules, differences
from mcp_intercept.recording.surface import Surface
from mcp_intercept.recording.values import canonical

FailOn = Literal["breaking", "compatible", "any", "never"]

_RULES: Final = Rules()
_SURFACE_METHODS: Final = REPEATED - {"logging/setLevel"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChange:
    """A change of what a server offers."""

    server: str
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class CallChange:
    """A change of what was asked, or answered."""

    kind: Literal["added", "removed", "changed"]
    old: Interaction | None
    new: Interaction | None
    differences: tuple[Difference, ...] = ()

    @property
    def either(self) -> Interaction:
        """The one that is there, the new one first."""
        one = self.new or self.old
        assert one is not None  # noqa: S101 - it has one of them
        return one

    def lines(self) -> Iterator[str]:
        """It in words, fit for a terminal."""
        numbers = " -> ".join(f"#{one.n}" for one in (self.old, self.new) if one is not None)
        yield f"{self.kind:<10}  {numbers} {self.either.title} (server {printable(self.either.server)})"
        for difference in self.differences:
            yield f"{'':<10}    {printable(str(difference), 1000)}"


def diff(old: Path, new: Path, server: str | None, *, fail_on: FailOn, as_json: bool) -> int:
    """Print what has changed from one cassette to another.

    Returns:
        The exit code.
    """
    with opened(old) as before, opened(new) as after:
        names = list(dict.fromkeys([*before.servers, *after.servers]))
        if server is not None:
            for file in (before, after):
                check_server(file, server)
            names = [server]
        surface = [change for name in names for change in surface_changes(before, after, name)]
        calls = list(call_changes(_calls(before, names), _calls(after, names)))
    return tell(surface, calls, fail_on=fail_on, as_json=as_json)


def surface_changes(old: Iterable[Interaction], new: Iterable[Interaction], server: str) -> list[ServerChange]:
    """What has changed in what a server offers."""
    changes = compare(Surface.of(old, server), Surface.of(new, server))
    return [ServerChange(server=server, change=change) for change in changes]


def _calls(interactions: Iterable[Interaction], servers: Collection[str]) -> list[Interaction]:
    return [
        one
        for one in interactions
        if one.kind == "request" and one.method not in _SURFACE_METHODS and one.server in servers
    ]


def call_changes(old: Sequence[Interaction], new: Sequence[Interaction]) -> Iterator[CallChange]:
    """What was asked and answered otherwise; the same calls are held against each other in their order.

    Of calls that were only made on one side, those of the same tool are taken for the same call with other arguments.
    """
    pairs, removed, added = _paired(old, new, _exactly)
    more, removed, added = _paired(removed, added, _roughly)
    for before, after in sorted([*pairs, *more], key=lambda pair: pair[1].n):
        found = differences(_essence(before), _essence(after))
        if found:
            yield CallChange(kind="changed", old=before, new=after, differences=tuple(found))
    for one in removed:
        yield CallChange(kind="removed", old=one, new=None)
    for one in added:
        yield CallChange(kind="added", old=None, new=one)


def _exactly(one: Interaction) -> object:
    return one.server, one.method, canonical(_RULES.essence(one.method, one.params))


def _roughly(one: Interaction) -> object:
    return one.server, one.method, one.name


def _paired(
    old: Sequence[Interaction], new: Sequence[Interaction], key: Any
) -> tuple[list[tuple[Interaction, Interaction]], list[Interaction], list[Interaction]]:
    waiting: dict[object, deque[Interaction]] = {}
    for one in old:
        waiting.setdefault(key(one), deque()).append(one)
    pairs: list[tuple[Interaction, Interaction]] = []
    added: list[Interaction] = []
    for one in new:
        same = waiting.get(key(one))
        if same:
            pairs.append((same.popleft(), one))
        else:
            added.append(one)
    removed = sorted((one for left in waiting.values() for one in left), key=lambda one: one.n)
    return pairs, removed, added


def _essence(interaction: Interaction) -> dict[str, Any]:
    """What counts of an interaction: what was asked, what came first, the answer, and what came after."""
    essence: dict[str, Any] = {"params": _RULES.essence(interaction.method, interaction.params)}
    where = "before"
    for event in interaction.events:
        told = {key: value for key, value in event.items() if key != "seconds"}
        if not TERMINAL.isdisjoint(told):
            where = "after"
            if "result" in told:
                told["result"] = _RULES.answer(interaction.method, told["result"])
            essence.update(told)
        else:
            essence.setdefault(where, []).append(told)
    return essence


def tell(surface: Sequence[ServerChange], calls: Sequence[CallChange], *, fail_on: FailOn, as_json: bool) -> int:
    """Print changes, and judge them; the value is the exit code."""
    kinds = [one.change.kind for one in surface]
    if as_json:
        for value in _as_values(surface, calls):
            say_json(value)
    else:
        several = len({one.server for one in surface}) > 1
        for one in sorted(surface, key=lambda one: one.change.kind):
            change = one.change
            where = f" at {printable(change.pointer)}" if change.pointer else ""
            whose = f" (server {printable(one.server)})" if several else ""
            say(f"{change.kind:<10}  {printable(change.subject)}{where}: {printable(change.detail, 2000)}{whose}")
        for call in calls:
            for line in call.lines():
                say(line)
        say(_summary(kinds, calls))
    if fail_on == "never":
        return 0
    fails = "breaking" in kinds or (fail_on != "breaking" and bool(kinds)) or (fail_on == "any" and bool(calls))
    return 1 if fails else 0


def _summary(kinds: Sequence[str], calls: Sequence[CallChange]) -> str:
    if not (kinds or calls):
        return "no change"
    breaking = kinds.count("breaking")
    told = [f"{counted(breaking, 'breaking change')}, {len(kinds) - breaking} compatible"]
    told += [
        f"{counted(number, 'call')} {kind}"
        for kind in ("changed", "removed", "added")
        if (number := sum(call.kind == kind for call in calls))
    ]
    return "; ".join(told)


def _as_values(surface: Sequence[ServerChange], calls: Sequence[CallChange]) -> Iterator[dict[str, Any]]:
    for one in surface:
        change = one.change
        yield {
            "kind": change.kind,
            "server": one.server,
            "subject": change.subject,
            "pointer": change.pointer,
            "detail": change.detail,
        }
    for call in calls:
        either = call.either
        yield {
            "kind": call.kind,
            "server": either.server,
            "method": either.method,
            "name": either.name,
            "old": call.old and call.old.n,
            "new": call.new and call.new.n,
            "differences": [
                {"pointer": one.pointer, "old": one.recorded, "new": one.found} for one in call.differences
            ],
        }
