"""`cassette scan`: where something in cassettes looks like a secret."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from mcp_intercept._cassette_cli.lines import counted, plain, redactor_of, say, tried
from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteError, CassetteFormatError
from mcp_intercept.recording.journal import JOURNAL
from mcp_intercept.recording.lines import FORMAT
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.scan import scan
from mcp_intercept.recording.stored import SideFiles
from mcp_intercept.recording.values import decode, is_object

_FORMATS: Final = (FORMAT, JOURNAL)


def scan_files(paths: Collection[Path], redaction: Redaction) -> int:
    """Print where something looks like a secret, and never what.

    Args:
        paths: Cassettes, journals, or folders with cassettes.
        redaction: What is secret beside what is known to be.

    Returns:
        The exit code.
    """
    redactor = redactor_of(redaction)
    findings = 0

    def look(path: Path) -> None:
        nonlocal findings
        findings += _scan_file(path, redactor)

    files, unread = tried(paths, look, journals=True)
    looked = counted(files, "file")
    if findings:
        say(f"{counted(findings, 'finding')} in {looked}")
    elif files:
        say(f"nothing found in {looked}")
    if unread:
        raise CassetteError("; not looked at either: ".join(unread))
    return 1 if findings else 0


def _scan_file(path: Path, redactor: Redactor) -> int:
    findings = 0
    for number, value in _values(path):
        for finding in scan(value, redactor):
            findings += 1
            # A name of a key may be a secret, too.
            where = printable(redactor.text(finding.where), 1000)
            say(f"{printable(str(path), 1000)}:{number}: {finding.kind}{f' at {where}' if where else ''}")
    return findings


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """The lines of a file, whole or not, with their numbers; the first has to say what it is."""
    side_files = SideFiles(path)
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = decode(text.removeprefix(b"\xef\xbb\xbf"))
            except ValueError:
                line = text.decode("utf-8", "replace")  # cut short perhaps, and no less secret
            if number == 1:
                if not is_object(line) or line.get("format") not in _FORMATS:
                    raise CassetteFormatError("this is no cassette, and no journal of a recording", path=path, line=1)
                continue
            try:
                yield number, plain(line, side_files)
            except CassetteFormatError as error:
                raise CassetteFormatError(error.reason, path=path, line=number) from None
