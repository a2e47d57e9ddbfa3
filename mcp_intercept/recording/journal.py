"""`Journal`: the file that a recording is written to while it goes on.

Each line is written with one call and nothing is kept back, so that whatever ends the process, all that was received
before is there. It belongs to one recording at a time.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Final

from mcp_intercept.errors import CassetteLockedError

JOURNAL: Final = "mcp-cassette-journal"
"""The format that its first line names."""
JOURNAL_VERSION: Final = 1

_BLOCK_BYTES = 1 << 16
# The system refuses to read or write it.
_NO_FILE = -1
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


def journal_of(path: Path) -> Path:
    """Where a cassette is written to while it is recorded."""
    return path.with_name(f"{path.name}.part")


def is_locked(journal: Path) -> bool:
    """Whether somebody is writing to a journal.

    Raises:
        OSError: It cannot be read.
    """
    file = os.open(journal, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        return not _try_lock(file)
    finally:
        os.close(file)


class Journal:
    """A file that is appended to, locked for everybody else.

    Args:
        path: The cassette that is being recorded. Where it cannot be written, every `write` says so.

    Raises:
        CassetteLockedError: It is being recorded already.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path = journal_of(path)
        self.set_aside: Path | None = None
        """Where an earlier recording is now that did not come to its end."""
        self._size = 0
        # What was read last, as what is asked for next is mostly behind it.
        self._block_begin, self._block = 0, b""
        self._file = _NO_FILE
        self._failure: OSError | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self.set_aside = _lock(self.path, path)
        except OSError as error:
            self._failure = error

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def write(self, line: bytes) -> int:
        """Append a line.

        Returns:
            Where it begins.

        Raises:
            OSError: It cannot be written; then nothing of it is.
        """
        if self._failure is not None:
            raise self._failure
        begin = self._size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:] if written else line)
        except OSError as error:
            if written:
                self._take_back(begin, error)
            raise
        self._size = begin + written
        return begin

    def _take_back(self, begin: int, why: OSError) -> None:
        """Remove the beginning of a line that could not be written, or else write no more: it would spoil the next."""
        try:
            os.ftruncate(self._file, begin)
        except OSError:
            self._failure = why

    def read(self, begin: int, length: int) -> bytes:
        """What was written.

        Raises:
            OSError: It cannot be read.
        """
        at = begin - self._block_begin
        if at < 0 or at + length > len(self._block):
            self._block_begin, at = begin, 0
            self._block = self._read(begin, max(length, _BLOCK_BYTES))
        return self._block[at : at + length]

    def _read(self, begin: int, length: int) -> bytes:
        os.lseek(self._file, begin, os.SEEK_SET)  # what is written is appended all the same
        parts: list[bytes] = []
        while length > 0 and (part := os.read(self._file, length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file != _NO_FILE:
            os.close(self._file)
            self._file = _NO_FILE

    def discard(self) -> None:
        """Remove the file."""
        if self._file == _NO_FILE:
            return
        if sys.platform == "win32":  # pragma: no cover - the tests do not run there
            self.close()
            self.path.unlink(missing_ok=True)
        else:
            # While it is locked: another recording may be waiting to begin.
            self.path.unlink(missing_ok=True)
            self.close()


def _lock(journal: Path, cassette: Path) -> tuple[int, Path | None]:
    aside: Path | None = None
    while True:
        file = os.open(journal, _FLAGS, 0o666)
        try:
            if not _try_lock(file):
                raise CassetteLockedError(
                    f"{cassette} is being recorded by another process, or another use_cassette() of this one; "
                    f"let it end first, or give each test a cassette of its own",
                    path=cassette,
                )
            if not _is_at(file, journal):
                # Whoever had it locked before has just removed it.
                os.close(file)
                continue
            if os.fstat(file).st_size:
                aside = _set_aside(journal)
                os.close(file)
                continue
        except BaseException:
            os.close(file)
            raise
        return file, aside


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _set_aside(journal: Path) -> Path:
    number = 1
    while (aside := journal.with_name(f"{journal.name}.{number}")).exists():
        number += 1
    os.rename(journal, aside)
    return aside


if sys.platform == "win32":  # pragma: no cover - the tests do not run there
    import msvcrt

    def _try_lock(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True
