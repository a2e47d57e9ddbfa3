"""`recover()`: from the journal of a recording that did not come to its end to a cassette."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteFormatError, CassetteLockedError
from mcp_intercept.recording.assembly import Assembly
from mcp_intercept.recording.journal import JOURNAL, JOURNAL_VERSION, is_locked
from mcp_intercept.recording.lines import read_line
from mcp_intercept.recording.store import CassetteFile, write_cassette
from mcp_intercept.recording.stored import SideFiles
from mcp_intercept.recording.values import decode, encode, is_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What has come of a journal."""

    interactions: int
    """How many interactions are in the cassette now."""
    messages: int
    """How many messages the journal had."""
    torn: bool
    """Whether its last line was cut short, and has been left out."""


# How the lines of a cassette are noted in a journal, and what is none.
_NOTED_AS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("request", "notification"), ("q",)),
    **dict.fromkeys(("result", "error"), ("of",)),
    **dict.fromkeys(("client_result", "client_error"), ("answers",)),
    **dict.fromkeys(("server_request", "server_notification"), ("",)),
    "nothing": ("server", "cancels", "withdraws", "closed"),
}
_NOTES: Final = sorted({note for notes in _NOTED_AS.values() for note in notes if note})


def recover(journal: Path, cassette: Path) -> Recovered:
    """Make a cassette of what a recording had written down when it was ended from outside.

    What was recorded with `mode="new_episodes"` is put below what the cassette has; otherwise there must be none.

    Args:
        journal: The journal: `*.mcp.jsonl.part`, or one that was set aside.
        cassette: Where the cassette is to be.

    Raises:
        CassetteFormatError: The journal, or the cassette that is there, is damaged, or they do not go together.
        CassetteLockedError: It is still being recorded.
        OSError: A file cannot be read or written.
    """
    if is_locked(journal):
        raise CassetteLockedError(f"{journal} is still being written to; let the recording end first", path=cassette)
    assembly = Assembly(_unread)
    mode, messages, torn = _read(journal, assembly)
    old: CassetteFile | None = None
    if cassette.exists():
        if mode != "new_episodes":
            raise CassetteFormatError(
                f"there is a cassette already, and {journal.name} was to take its place; "
                f"move it away, or recover to another file",
                path=cassette,
            )
        old = CassetteFile(cassette)
    try:
        kept = [] if old is None else [line for place in range(len(old)) for line in old.text(place)]
        side_files = SideFiles(cassette)
        lines = list(assembly.lines(1 if old is None else old.last_number + 1, side_files))
        write_cassette(cassette, [*kept, *lines])
    finally:
        if old is not None:
            old.close()
    numbers = {decode(line)["n"] for line in [*kept, *lines]}
    return Recovered(interactions=len(numbers), messages=messages, torn=torn)


def _unread(begin: int, length: int) -> bytes:
    raise AssertionError("every body is in memory")  # pragma: no cover - it is


def _read(journal: Path, assembly: Assembly) -> tuple[str, int, bool]:
    mode, messages = "", 0
    with open(journal, "rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                if number > 1:
                    return mode, messages, True
                break
            try:
                entry: Any = decode(text)
                if number == 1:
                    mode = _mode_of(entry, journal)
                    continue
                line = entry.pop("line", None)
                _check(entry, line, journal, number)
                assembly.add(entry, b"" if line is None else encode(line)[1:-1])
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise CassetteFormatError(
                    f"this is no line of a journal ({type(error).__name__}: {printable(str(error))}); "
                    f"remove it to recover the rest",
                    path=journal,
                    line=number,
                ) from None
            messages += "server" not in entry
    if not mode:
        raise CassetteFormatError("it has no whole line; there is nothing to recover", path=journal)
    return mode, messages, False


def _check(entry: dict[str, Any], line: dict[str, Any] | None, journal: Path, number: int) -> None:
    """Refuse what would be no line of a cassette, or is noted as another kind of line than it is."""
    kind = next((kind for kind in _NOTED_AS if line is not None and kind in line), "nothing")
    noted = ", ".join(note for note in _NOTES if note in entry)
    if noted not in _NOTED_AS[kind]:
        raise ValueError(f"{kind} is not noted as {noted or 'nothing'}")
    names = {"server": entry.get("server", "any"), "notification": entry.get("m", "any")}
    lines: list[dict[str, Any]] = [names, {"closed": entry.get("closed", "any")}]
    if line is not None and ("request" in line or "notification" in line):
        lines.append({"server": "any", **line})
    elif line is not None and ("client_result" in line or "client_error" in line):
        lines.append({"server_request": "any", **line})
    elif line is not None:
        lines.append(line)
    for checked in lines:
        read_line(encode({"n": 1, **checked}), journal, number)


def _mode_of(entry: Any, journal: Path) -> str:
    if not is_object(entry) or entry.get("format") != JOURNAL:
        raise CassetteFormatError("this is no journal of a recording", path=journal, line=1)
    if entry.get("version") != JOURNAL_VERSION:
        raise CassetteFormatError(
            f"it is of version {entry.get('version')!r}, and this is for {JOURNAL_VERSION}; upgrade mcp-intercept-sdk",
            path=journal,
            line=1,
        )
    return str(entry.get("mode") or "once")
