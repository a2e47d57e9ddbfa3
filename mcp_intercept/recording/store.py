"""`CassetteFile`: a cassette on disk. It is checked as a whole and held open, and read where something is asked."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Any, Final

from mcp_intercept.errors import CassetteError, CassetteFormatError
from mcp_intercept.recording.interactions import Interaction, name_in
from mcp_intercept.recording.lines import FORMAT, VERSION, read_line
from mcp_intercept.recording.stored import STORED, SideFiles, files_in
from mcp_intercept.recording.values import encode

Bucket = tuple[str, str, "str | None"]
"""The server, the method, and the name or URI that a message is about."""

_BOM: Final = b"\xef\xbb\xbf"
_OTHERS: Final = "; what mcp-cassette, mcp-recorder or mcp-rec have recorded, `mcp-intercept cassette convert` reads"
_TERMINAL: Final = frozenset({"result", "error", "cancelled", "closed"})


class CassetteFile:
    """The interactions in a file.

    Args:
        path: The file.

    Raises:
        CassetteFormatError: It is damaged, or no cassette.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise CassetteFormatError("it is a folder, not a cassette", path=path)
        self.path = path
        self.lost: int = 0
        """How many messages are known to be missing."""
        self.buckets: dict[Bucket, array[int]] = {}
        """Where to find the interactions about something, in order, counted from 0."""
        self._begins = array("Q")
        self._line_numbers = array("L")
        self._numbers = array("L")
        self._connections = array("L")
        self._end = 0
        self._lock = RLock()
        self._side_files = SideFiles(path)
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        try:
            self._index()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._begins)

    def __iter__(self) -> Iterator[Interaction]:
        return map(self.load, range(len(self)))

    @property
    def servers(self) -> list[str]:
        """The names of the servers, in order of appearance."""
        return list(dict.fromkeys(server for server, _, _ in self.buckets))

    @property
    def last_number(self) -> int:
        """The number of the last interaction; 0 if there is none."""
        return self._numbers[-1] if self._numbers else 0

    def line_number(self, place: int) -> int:
        """On which line an interaction begins."""
        return self._line_numbers[place]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _index(self) -> None:
        path, at, number, kind = self.path, 0, 0, ""
        current = 0
        waits = False  # for its answer, if the current one is a request
        for text in self._file:
            number += 1
            if number == 1 and text.startswith(_BOM):
                text = text[len(_BOM) :]
                at += len(_BOM)
            if self._end:
                if not text.isspace():
                    raise CassetteFormatError("something stands below the end", path=path, line=number)
                continue
            try:
                kind, line = read_line(text, path, number)
            except CassetteFormatError as error:
                if number == 1 and FORMAT.encode() not in text:
                    raise CassetteFormatError(f"{error.reason}{_OTHERS}", path=path, line=1) from None
                raise
            if number == 1:
                self._check_header(kind, line)
            elif kind == "end":
                self._end = number
            elif kind in ("request", "notification"):
                if line["n"] <= current:
                    raise CassetteFormatError(
                        f"interaction {line['n']} stands below {current}; the lines are not in order",
                        path=path,
                        line=number,
                    )
                current, waits = line["n"], kind == "request"
                self._add(line, line[kind], at, number)
            elif kind == "format":
                raise CassetteFormatError("a second header", path=path, line=number)
            else:
                if line["n"] != current:
                    raise CassetteFormatError(
                        f"a line of interaction {line['n']} stands where those of {current or 'none'} are; "
                        f"the lines are not in order",
                        path=path,
                        line=number,
                    )
                if kind in _TERMINAL:
                    if not waits:
                        raise CassetteFormatError(
                            f"interaction {current} ends a second time, or is none that ends", path=path, line=number
                        )
                    waits = False
            at += len(text)
        if not self._end:
            said = (
                "it is empty"
                if number == 0
                else "it is cut short: the last line, which says that it is the end, is missing"
            )
            raise CassetteFormatError(
                f"{said}; restore the file, or delete it and record it again", path=path, line=number or None
            )

    def _check_header(self, kind: str, line: dict[str, Any]) -> None:
        if kind != "format":
            raise CassetteFormatError(
                f'the first line has to be {{"format":"{FORMAT}","version":{VERSION}}}{_OTHERS}', path=self.path, line=1
            )
        self.lost = line.get("lost", 0)

    def _add(self, line: dict[str, Any], method: str, at: int, number: int) -> None:
        bucket = (line["server"], method, name_in(method, line.get("params")))
        places = self.buckets.get(bucket)
        if places is None:
            self.buckets[bucket] = places = array("L")
        places.append(len(self._begins))
        self._begins.append(at)
        self._line_numbers.append(number)
        self._numbers.append(line["n"])
        self._connections.append(line.get("connection", 1))

    def connection(self, place: int) -> int:
        """Which connection to its server an interaction is of, from 1."""
        return self._connections[place]

    def head(self, place: int) -> Interaction:
        """An interaction without what came of it: all that it is matched by.

        Raises:
            CassetteFormatError: As for `load`.
        """
        return self._load(place, 1)

    def load(self, place: int) -> Interaction:
        """An interaction, by where it is, counted from 0.

        Raises:
            CassetteFormatError: A file that belongs to it is missing, or it was changed meanwhile.
        """
        return self._load(place, None)

    def _load(self, place: int, count: int | None) -> Interaction:
        number = self._line_numbers[place]
        lines = [self._line(text, number + below) for below, text in enumerate(self.text(place, count))]
        kind, line = lines[0]
        for _, event in lines:
            del event["n"]
        return Interaction(
            n=self._numbers[place],
            server=line["server"],
            connection=self._connections[place],
            kind="request" if kind == "request" else "notification",
            method=line[kind],
            params=line.get("params"),
            events=[event for _, event in lines[1:]],
            line=number,
        )

    def _line(self, text: bytes, number: int) -> tuple[str, dict[str, Any]]:
        kind, line = read_line(text, self.path, number)
        if b'"$' in text:
            try:
                line = {key: self._side_files.load(value) for key, value in line.items()}
            except CassetteFormatError as error:
                raise CassetteFormatError(error.reason, path=self.path, line=number) from None
            except RecursionError:
                raise CassetteFormatError("it is nested too deeply", path=self.path, line=number) from None
        return kind, line

    def text(self, place: int, count: int | None = None) -> list[bytes]:
        """The lines of an interaction, all or the first so many."""
        if count is None:
            below = self._end if place + 1 == len(self) else self._line_numbers[place + 1]
            count = below - self._line_numbers[place]
        with self._lock:
            self._file.seek(self._begins[place])
            return [self._file.readline() for _ in range(count)]

    def files(self) -> set[str]:
        """The names of the side files that belong to it."""
        names: set[str] = set()
        for place in range(len(self)):
            for number, text in enumerate(self.text(place)):
                if b'"$file"' in text:
                    names.update(files_in(read_line(text, self.path, self._line_numbers[place] + number)[1]))
        return names


def lines_of(interactions: Iterable[Interaction], side_files: SideFiles) -> Iterator[bytes]:
    """Interactions as the lines of a cassette, numbered from 1.

    Raises:
        OSError: A file for a large value cannot be written.
    """
    for n, interaction in enumerate(interactions, 1):
        line: dict[str, Any] = {"n": n, "server": interaction.server}
        if interaction.connection > 1:
            line["connection"] = interaction.connection
        line[interaction.kind] = interaction.method
        if interaction.params:
            line["params"] = side_files.store(interaction.params)
        yield encode(line) + b"\n"
        for event in interaction.events:
            stored = {key: side_files.store(value) if key in STORED else value for key, value in event.items()}
            yield encode({"n": n, **stored}) + b"\n"


def check_writable(path: Path) -> None:
    """Refuse to write where it would lead elsewhere.

    Raises:
        CassetteError: There is a link, or something else that is no file.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CassetteError(f"{path} is a link or no file; a cassette is only written to a file", path=path)


def write_cassette(path: Path, lines: Iterable[bytes], *, lost: int = 0) -> None:
    """Put a cassette into the place of the one that is there, all at once, and safe from a loss of power.

    Args:
        path: The file.
        lines: The lines of the interactions.
        lost: How many messages are missing.

    Raises:
        CassetteError: There is a link in its place.
        OSError: It cannot be written; then what was there is as it was.
    """
    check_writable(path)
    unfinished = path.with_name(f".{path.name}.new")
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION} | ({"lost": lost} if lost else {})
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(unfinished, flags, 0o666), "wb") as file:
            file.write(encode(header) + b"\n")
            file.writelines(lines)
            file.write(encode({"end": True}) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # Windows does not open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
