"""Commands that write cassettes: `redact`, `prune`, `recover` and `convert`. What is there is replaced all at once."""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from mcp_intercept._cassette_cli.lines import (
    bytes_in_words,
    check_numbers,
    check_server,
    counted,
    opened_for_change,
    plain,
    redactor_of,
    say,
    tried,
)
from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteError, InterceptError
from mcp_intercept.recording.convert import convert
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.journal import JOURNAL, journal_of
from mcp_intercept.recording.lines import read_line
from mcp_intercept.recording.recovery import recover
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.store import CassetteFile, lines_of, write_cassette
from mcp_intercept.recording.stored import ANY, FILE, LITERAL, REGEX, SUBSET, SideFiles, files_in
from mcp_intercept.recording.values import decode, encode, is_array, is_object

_JOURNAL = re.compile(r"(.+)\.part(?:\.[0-9]+)?")


class _Cleaner:
    """Takes secrets out of lines, and leaves what somebody has written by hand."""

    def __init__(self, redactor: Redactor, old: SideFiles, new: SideFiles) -> None:
        self.replaced = 0
        self._redactor = redactor
        self._old = old
        self._new = new

    def line(self, kind: str, method: str, line: dict[str, Any]) -> dict[str, Any]:
        """A line of the cassette; the very same if nothing in it is secret.

        Args:
            kind: What kind of line it is.
            method: The method of the request that it belongs to.
            line: The line.
        """
        about = str(line.get(kind)) if kind.startswith("server_") else method
        changed = line
        for key, written in line.items():
            if key in ("params", "result", "client_result", "error", "client_error", "closed"):
                before = plain(written, self._old)
                after: Any
                if key == "closed":
                    after = self._redactor.text(before)
                elif key in ("error", "client_error"):
                    after = self._redactor.error(before)
                elif key == "params":
                    after = self._redactor.params(about, before)
                else:
                    after = self._redactor.result(about, before)
                new = self._merged(written, before, after)
                if new is not written:
                    changed = {**changed, key: new}
        return changed

    def _merged(self, written: Any, before: Any, after: Any) -> Any:
        """The value as it is written now. A redactor leaves keys, and the lengths of lists, as they are."""
        if after is before:
            return written
        if is_object(written):
            if FILE in written:
                return self._leaf(after)
            if len(written) == 1:
                [key] = written
                if key == LITERAL and is_object(written[key]):
                    return {LITERAL: self._members(written[key], before, after)}
                if key in (ANY, REGEX, SUBSET):
                    return written
            return self._members(written, before, after)
        if is_array(written):
            merged = [self._merged(*item) for item in zip(written, before, after, strict=True)]
            return merged if any(new is not old for new, old in zip(merged, written, strict=True)) else written
        return self._leaf(after)

    def _members(self, written: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        merged = {key: self._merged(written[key], before[key], after[key]) for key in written}
        return merged if any(merged[key] is not written[key] for key in written) else written

    def _leaf(self, after: Any) -> Any:
        self.replaced += 1
        return self._new.store(after)


def redact(paths: Collection[Path], output: Path | None, redaction: Redaction, *, dry_run: bool) -> int:
    """Take secrets out of cassettes.

    Args:
        paths: Cassettes, or folders with cassettes.
        output: Where to put the one there is; without, each is replaced.
        redaction: What is secret beside what is known to be.
        dry_run: Only say what would be done.

    Returns:
        The exit code.
    """
    if output is not None and (len(paths) > 1 or any(path.is_dir() for path in paths)):
        raise InterceptError("--output goes with one cassette; without it, each is replaced")
    redactor = redactor_of(redaction)
    replaced = 0

    def clean(path: Path) -> None:
        nonlocal replaced
        replaced += _redact(path, output or path, redactor, dry_run=dry_run)

    _, wrong = tried(paths, clean)
    if replaced and not dry_run and redaction != Redaction():
        say("what replays it has to redact the same: give use_cassette(..., redaction=Redaction(...)) these options")
    if wrong:
        raise CassetteError("; not redacted either: ".join(wrong))
    return 0


def _redact(path: Path, target: Path, redactor: Redactor, *, dry_run: bool) -> int:
    """Take secrets out of one; the value is how many there were."""
    with opened_for_change(path) as file:
        old, new = SideFiles(path), _Unwritten(target) if dry_run else SideFiles(target)
        if not dry_run:
            _refuse_other(path, target)
        cleaner = _Cleaner(redactor, old, new)
        lines: list[bytes] = []
        for place in range(len(file)):
            method = ""
            for offset, text in enumerate(file.text(place)):
                kind, line = read_line(text, path, file.line_number(place) + offset)
                method = str(line[kind]) if kind in ("request", "notification") else method
                clean = cleaner.line(kind, method, line)
                lines.append(text if clean is line else encode(clean) + b"\n")
        done = f"{counted(cleaner.replaced, 'value')} replaced"
        if dry_run:
            say(f"{printable(str(path), 1000)}: {done.replace(' replaced', '')} would be replaced")
            return cleaner.replaced
        if cleaner.replaced or target != path:
            _write(file, target, lines)
    say(f"{printable(str(target), 1000)}: {done}")
    return cleaner.replaced


class _Unwritten(SideFiles):
    """Writes nothing."""

    def store(self, value: Any, key: str = "", mime_type: object = None) -> Any:
        return value


def _refuse_other(path: Path, target: Path) -> None:
    if target != path and target.exists():
        raise CassetteError(f"{target} exists already; move it away, or name another file", path=target)


def _write(file: CassetteFile, target: Path, lines: Iterable[bytes]) -> None:
    """Put lines into the place of a cassette, together with the files that they refer to, and no others."""
    lines = list(lines)
    kept = {name for text in lines if b'"$file"' in text for name in files_in(read_line(text, target, 0)[1])}
    old, new = SideFiles(file.path), SideFiles(target)
    for name in kept:
        if not (new.folder / name).exists():
            new.folder.mkdir(exist_ok=True)
            (new.folder / name).write_bytes((old.folder / name).read_bytes())
    write_cassette(target, lines, lost=file.lost)
    new.forget(kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What to remove: all that one of these names."""

    numbers: Collection[range] = ()
    methods: Collection[str] = ()
    tools: Collection[str] = ()
    servers: Collection[str] = ()

    def names(self, interaction: Interaction) -> bool:
        """Whether an interaction is to go."""
        return (
            any(interaction.n in numbers for numbers in self.numbers)
            or interaction.method in self.methods
            or (interaction.method == "tools/call" and interaction.name in self.tools)
            or interaction.server in self.servers
        )


def prune(path: Path, which: Pruned, *, dry_run: bool) -> int:
    """Remove interactions from a cassette.

    Returns:
        The exit code.
    """
    with opened_for_change(path) as file:
        check_numbers(file, which.numbers)
        for server in which.servers:
            check_server(file, server)
        kept: list[bytes] = []
        removed: list[Interaction] = []
        for place, interaction in enumerate(file):
            if which.names(interaction):
                removed.append(interaction)
            else:
                kept += file.text(place)
        if not dry_run:
            _write(file, path, kept)
        left = len(file) - len(removed)
    for one in removed:
        say(f"#{one.n} {one.title} (server {printable(one.server)})")
    done = "would be removed" if dry_run else "removed"
    say(f"{printable(str(path), 1000)}: {counted(len(removed), 'interaction')} {done}, {left} left")
    return 0


def recover_file(path: Path, output: Path | None, *, keep: bool) -> int:
    """Make a cassette of the journal of a recording.

    Returns:
        The exit code.
    """
    journal = _journal_at(path)
    cassette = output
    if cassette is None:
        match = _JOURNAL.fullmatch(journal.name)
        if match is None:
            raise InterceptError(f"{journal} is not named as journals are; say with --output where to put the cassette")
        cassette = journal.with_name(match[1])
    recovered = recover(journal, cassette)
    if not keep:
        journal.unlink()
    said = f"{counted(recovered.interactions, 'interaction')} of {counted(recovered.messages, 'message')}"
    torn = "; the last line was cut short, and is left out" if recovered.torn else ""
    say(f"{printable(str(cassette), 1000)}: {said}{torn}")
    return 0


def _journal_at(path: Path) -> Path:
    """The journal that is meant by its own path, or by that of its cassette."""
    if _is_journal(path):
        return path
    journal = journal_of(path)
    aside = sorted(
        (other for other in path.parent.glob(f"{escape(journal.name)}.*") if other.suffix[1:].isdecimal()),
        key=lambda other: int(other.suffix[1:]),
    )
    journals = [*([journal] if journal.exists() else []), *aside]
    if len(journals) > 1:
        listed = ", ".join(f"{other.name} ({bytes_in_words(other.stat().st_size)})" for other in journals)
        raise InterceptError(f"there are several journals of {path}, name the one that you want: {listed}")
    if not journals:
        raise InterceptError(f"there is no journal of {path}; a recording that has ended has none")
    return journals[0]


def _is_journal(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            first: Any = decode(file.readline())
    except (FileNotFoundError, ValueError):
        return False
    return is_object(first) and first.get("format") == JOURNAL


def convert_file(path: Path, output: Path, server: str | None) -> int:
    """Make a cassette of a recording of another tool.

    Returns:
        The exit code.
    """
    _refuse_other(path, output)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        interactions = convert(path)
    for warning in told:
        sys.stderr.write(f"mcp-intercept: {printable(str(warning.message), 1000)}\n")
    names = Counter(one.server for one in interactions)
    if server is not None:
        if len(names) > 1:
            raise CassetteError(f"{path} has several servers, and keeps their names: {', '.join(names)}", path=path)
        interactions = [replace(one, server=server) for one in interactions]
    side_files = SideFiles(output)
    write_cassette(output, lines_of(_redacted(interactions), side_files))
    said = f" with {', '.join(map(printable, [server] if server else names))}" if names else ""
    say(f"{printable(str(output), 1000)}: {counted(len(interactions), 'interaction')}{said}")
    return 0


def _redacted(interactions: Iterable[Interaction]) -> Iterator[Interaction]:
    """As they would have been recorded."""
    redactor = Redactor(Redaction())
    for one in interactions:
        events: list[dict[str, Any]] = []
        for event in one.events:
            about = str(event.get("server_notification", event.get("server_request", one.method)))
            clean = dict(event)
            for key in event:
                if key == "params":
                    clean[key] = redactor.params(about, event[key])
                elif key in ("result", "client_result"):
                    clean[key] = redactor.result(about, event[key])
                elif key in ("error", "client_error"):
                    clean[key] = redactor.error(event[key])
            events.append(clean)
        yield replace(one, params=redactor.params(one.method, one.params), events=events)
