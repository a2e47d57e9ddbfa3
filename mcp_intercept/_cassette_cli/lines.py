"""What the commands share: cassettes opened and chosen from, interactions as lines, and words for how they ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcp_intercept.errors import CassetteError, CassetteLockedError
from mcp_intercept.recording.eras import is_question
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.journal import is_locked, journal_of
from mcp_intercept.recording.lines import json_schema
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.store import CassetteFile
from mcp_intercept.recording.stored import FILE, LITERAL, SideFiles, files_in
from mcp_intercept.recording.values import decode, is_array, is_object

TERMINAL: Final = frozenset({"result", "error", "cancelled", "closed"})
"""The keys of events that end a request."""

CALLS: Final = frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete"})


@contextmanager
def opened(path: Path) -> Generator[CassetteFile, None, None]:
    """A cassette, checked.

    Raises:
        CassetteError: There is none, but what a recording has left that has not come to its end.
        CassetteFormatError: It is damaged, or none.
        OSError: It cannot be read.
    """
    try:
        file = CassetteFile(path)
    except FileNotFoundError:
        journal = journal_of(path)
        if not journal.exists():
            raise
        raise CassetteError(
            f"{path} is not there, but {journal.name} of a recording that has not come to its end; "
            f"`mcp-intercept cassette recover` makes a cassette of it",
            path=path,
        ) from None
    try:
        yield file
    finally:
        file.close()


@contextmanager
def opened_for_change(path: Path) -> Generator[CassetteFile, None, None]:
    """The same for a cassette that is about to be written again.

    Raises:
        CassetteLockedError: Somebody is recording it.
    """
    with opened(path) as file:
        journal = journal_of(path)
        if journal.exists() and is_locked(journal):
            raise CassetteLockedError(f"{path} is being recorded; let the recording end first", path=path)
        yield file


def told(error: OSError, path: Path | None = None) -> str:
    """What an error of the system says, and of which file.

    Args:
        error: The error.
        path: The file, if the error does not say it.
    """
    reason = error.strerror or str(error) or type(error).__name__
    file = error.filename or path
    return f"{file}: {reason}" if file else reason


def tried(paths: Collection[Path], do: Callable[[Path], None], *, journals: bool = False) -> tuple[int, list[str]]:
    """Do something with each cassette, also if it cannot be done with another.

    Args:
        paths: Cassettes, and folders, which stand for all cassettes in them.
        do: What to do.
        journals: Whether the journals of recordings that are in a folder count, too.

    Returns:
        With how many it was done, and what was wrong with the others.

    Raises:
        CassetteError: There are none.
    """
    files = 0
    wrong: list[str] = []
    for path in _files_in(paths, ("*.mcp.jsonl", "*.mcp.jsonl.part*") if journals else ("*.mcp.jsonl",)):
        files += 1
        try:
            do(path)
        except BrokenPipeError:
            raise
        except CassetteError as error:
            wrong.append(str(error))
        except OSError as error:
            wrong.append(told(error, path))
    if not files:
        raise CassetteError(f"there is no cassette in {' or '.join(map(str, paths))}")
    return files - len(wrong), wrong


def _files_in(paths: Iterable[Path], patterns: Collection[str]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted({found for pattern in patterns for found in path.rglob(pattern)})
        else:
            yield path


def redactor_of(redaction: Redaction) -> Redactor:
    """What looks for secrets, after telling what it cannot look for."""
    redactor = Redactor(redaction)
    for name in redactor.too_short:
        sys.stderr.write(f"mcp-intercept: the value of {name} is too short to be looked for\n")
    for name in redactor.without_value:
        sys.stderr.write(f"mcp-intercept: {name} is not set, so its value is not looked for\n")
    return redactor


def server_in(file: CassetteFile, name: str | None) -> str:
    """The server of a cassette that is meant.

    Raises:
        CassetteError: There is no such server, or there are several and none is named.
    """
    servers = file.servers
    if name is not None:
        check_server(file, name)
        return name
    if len(servers) != 1:
        raise CassetteError(
            f"{file.path} has {f'{len(servers)} servers' if servers else 'no server'}"
            f"{f'; name one with --server: {_listed(servers)}' if servers else ''}",
            path=file.path,
        )
    return servers[0]


def check_server(file: CassetteFile, name: str) -> None:
    """Refuse the name of a server that is not in a cassette.

    Raises:
        CassetteError: It is not there.
    """
    if name not in file.servers:
        raise CassetteError(f"{file.path} has no server {name!r}; it has {_listed(file.servers)}", path=file.path)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which interactions to show."""

    server: str | None = None
    calls: bool = False
    """Only what asks for something by name."""
    numbers: list[range] | None = None

    def of(self, file: CassetteFile) -> Iterator[tuple[int, Interaction]]:
        """Them, with where they are in the cassette.

        Raises:
            CassetteError: The server, or a number, is not there.
        """
        if self.server is not None:
            check_server(file, self.server)
        if self.numbers is not None:
            check_numbers(file, self.numbers)
        for place, interaction in enumerate(file):
            if (
                (self.server is None or interaction.server == self.server)
                and (not self.calls or interaction.method in CALLS)
                and (self.numbers is None or any(interaction.n in numbers for numbers in self.numbers))
            ):
                yield place, interaction


def check_numbers(file: CassetteFile, numbers: Iterable[range]) -> None:
    """Refuse numbers, and ends of ranges, that are not there.

    Raises:
        CassetteError: One is not.
    """
    there = {interaction.n for interaction in file}
    for asked in numbers:
        if not any(number in asked for number in there):  # the range may be longer than any file
            said = str(asked[0]) if len(asked) == 1 else f"{asked[0]}-{asked[-1]}"
            has = f"they go from {min(there)} to {max(there)}" if there else "it has none"
            raise CassetteError(f"{file.path} has no interaction {said}; {has}", path=file.path)


def outcome_of(interaction: Interaction) -> str:
    """How it ended: `ok`, `tool_error`, `asks`, `error`, `cancelled`, `closed` or `unanswered`; a notification, `-`."""
    for event in interaction.events:
        if "result" in event:
            result = event["result"]
            if is_question(result):
                return "asks"
            return "tool_error" if interaction.method == "tools/call" and result.get("isError") is True else "ok"
        for outcome in ("error", "cancelled", "closed"):
            if outcome in event:
                return outcome
    return "unanswered" if interaction.kind == "request" else "-"


def size_of(file: CassetteFile, place: int) -> int:
    """Bytes that an interaction takes, with its files."""
    texts = file.text(place)
    size = sum(map(len, texts))
    folder = SideFiles(file.path).folder
    names = {name for text in texts if b'"$file"' in text for name in files_in(decode(text))}
    return size + sum((folder / name).stat().st_size for name in names)


def plain(written: Any, side_files: SideFiles) -> Any:
    """A value of a cassette as it was on the wire, in ordinary dicts; `SideFiles.load` tells escaped ones apart.

    Raises:
        CassetteFormatError: A file that belongs to it is missing.
    """
    if is_object(written):
        if FILE in written:
            return side_files.load(written)
        if len(written) == 1 and is_object(written.get(LITERAL)):
            written = written[LITERAL]
        return {key: plain(item, side_files) for key, item in written.items()}
    return [plain(item, side_files) for item in written] if is_array(written) else written


def seconds_of(interaction: Interaction) -> float | None:
    """How long the answer took, if that was recorded."""
    ends = (event for event in interaction.events if not TERMINAL.isdisjoint(event))
    return next((event["seconds"] for event in ends if "seconds" in event), None)


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bytes_in_words(size: int) -> str:
    """At most eight characters."""
    if size < 1000:
        return f"{size} B"
    unit, factor = ("kB", 1e3) if size < 999_500 else ("MB", 1e6) if size < 999_500_000 else ("GB", 1e9)
    number = size / factor
    return f"{number:.1f} {unit}" if number < 99.95 else f"{number:.0f} {unit}"


def say(text: str) -> None:
    """Print a line, escaping what the output has no letters for."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def say_json(value: Any) -> None:
    """Print a value on a line, in ASCII, so that it does nothing to a terminal."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def as_json(path: Path, selection: Selection) -> int:
    """Print interactions for a program to read; the value is the exit code."""
    with opened(path) as file:
        for place, interaction in selection.of(file):
            seconds = seconds_of(interaction)
            say_json(
                {
                    "n": interaction.n,
                    "line": file.line_number(place),
                    "server": interaction.server,
                    "connection": interaction.connection,
                    "kind": interaction.kind,
                    "method": interaction.method,
                    "name": interaction.name,
                    "outcome": outcome_of(interaction),
                    "bytes": size_of(file, place),
                    **({} if seconds is None else {"seconds": seconds}),
                    "params": interaction.params,
                    "events": interaction.events,
                }
            )
    return 0


def schema_text() -> str:
    """The JSON Schema, as it is in `mcp_intercept/recording/cassette.schema.json`."""
    return json.dumps(json_schema(), indent=2) + "\n"
