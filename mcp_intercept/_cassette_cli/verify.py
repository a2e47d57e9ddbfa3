"""`cassette verify` without a server: whether cassettes are sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from mcp_intercept._cassette_cli.lines import check_server, counted, opened, say, tried
from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteError
from mcp_intercept.recording.journal import journal_of
from mcp_intercept.recording.stored import SideFiles


def verify_files(paths: Collection[Path], server: str | None) -> int:
    """Read all of cassettes, with the files that belong to them, and say what they have.

    Args:
        paths: Cassettes, or folders with cassettes.
        server: A server that they have to have.

    Returns:
        The exit code.

    Raises:
        CassetteError: One is damaged; the others have been read all the same.
    """
    _, wrong = tried(paths, lambda path: _verify(path, server))
    if wrong:
        raise CassetteError("; not sound either: ".join(wrong))
    return 0


def _verify(path: Path, server: str | None) -> None:
    with opened(path) as file:
        if server is not None:
            check_server(file, server)
        by_server = Counter(interaction.server for interaction in file)
        files = file.files()
        lost, count = file.lost, len(file)
    said = f"{counted(count, 'interaction')}{', ' + counted(len(files), 'file') + ' beside it' if files else ''}"
    say(f"{printable(str(path), 1000)}: sound, {said}")
    for name, number in by_server.items():
        say(f"  {printable(name)}: {counted(number, 'interaction')}")
    if lost:
        say(f"  it is not complete: {counted(lost, 'message')} could not be written when it was recorded")
    folder = SideFiles(path).folder
    strangers = sorted(other.name for other in folder.iterdir() if other.name not in files) if folder.is_dir() else []
    if strangers:
        listed = ", ".join(map(printable, strangers[:5])) + (", ..." if len(strangers) > 5 else "")
        say(f"  nothing refers to {counted(len(strangers), 'file')} in {printable(folder.name)}: {listed}")
    if journal_of(path).exists():
        say(f"  {printable(journal_of(path).name)} is there: it is being recorded, or that has not come to its end")
