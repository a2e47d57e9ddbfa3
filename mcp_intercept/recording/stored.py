"""What a value looks like in the file of a cassette: large leaves in files of their own, and `$` keys escaped.

An object with a key that means something in a cassette (`$any`, `$file`, ...) is written inside `{"$literal": ...}`, so
that what a server says is never taken for what somebody wrote by hand.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mcp_intercept.errors import CassetteError, CassetteFormatError
from mcp_intercept.recording.values import Json, is_array, is_object

ANY: Final = "$any"
REGEX: Final = "$regex"
SUBSET: Final = "$subset"
LITERAL: Final = "$literal"
FILE: Final = "$file"
STORED: Final = frozenset({"params", "result", "error", "client_result", "client_error"})
"""The members of a line whose values are stored like this."""
_RESERVED: Final = frozenset({ANY, REGEX, SUBSET, LITERAL, FILE})

LARGE_TEXT: Final = 64 * 1024
"""A text of more characters than this goes to a file of its own."""
LARGE_BINARY: Final = 4 * 1024
"""The same for base64 in `data` and `blob`, which nobody reads in a cassette."""

# Not those of the machine, which would make it another name on the next one.
_EXTENSIONS: Final = {
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/zip": ".zip",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/wav": ".wav",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "image/webp": ".webp",
    "text/csv": ".csv",
    "text/html": ".html",
    "video/mp4": ".mp4",
}
_NAME = re.compile(r"[0-9a-f]{16}\.[a-z0-9]{1,8}")


class Literally(dict[str, Any]):
    """An object that was written inside `{"$literal": ...}`: its keys mean nothing."""


def folder_of(path: Path) -> Path:
    """Where the large values of a cassette are: `weather.mcp.files` beside `weather.mcp.jsonl`."""
    return path.with_name(path.name.removesuffix(".jsonl") + ".files")


class SideFiles:
    """The files for large values beside a cassette, named by what is in them.

    Args:
        path: The cassette.
    """

    def __init__(self, path: Path) -> None:
        self.folder: Path = folder_of(path)
        self.written: set[str] = set()

    def store(self, value: Json, key: str = "", mime_type: object = None) -> Json:
        """The value as it is written into the cassette.

        Raises:
            OSError: A file cannot be written.
        """
        if is_object(value):
            kind = value.get("mimeType")
            inside = {name: self.store(item, name, kind) for name, item in value.items()}
            return {LITERAL: inside} if any(name in _RESERVED for name in value) else inside
        if is_array(value):
            return [self.store(item) for item in value]
        if isinstance(value, str):
            if key in ("data", "blob") and len(value) > LARGE_BINARY and (content := _binary(value)) is not None:
                extension = _EXTENSIONS.get(mime_type, ".bin") if isinstance(mime_type, str) else ".bin"
                return self._write(content, "base64", extension)
            if len(value) > LARGE_TEXT:
                return self._write(value.encode("utf-8", "surrogatepass"), "text", ".txt")
        return value

    def _write(self, content: bytes, encoding: str, extension: str) -> Json:
        name = f"{sha256(content).hexdigest()[:16]}{extension}"
        target = self.folder / name
        if name not in self.written and not target.is_file():
            if self.folder.is_symlink():
                raise CassetteError(f"{self.folder} is a link; a cassette is only written to a folder of its own")
            self.folder.mkdir(exist_ok=True)
            unfinished = target.with_suffix(".part")
            unfinished.write_bytes(content)
            os.replace(unfinished, target)
        self.written.add(name)
        return {FILE: name, "encoding": encoding}

    def load(self, value: Json) -> Json:
        """The value that was written as this.

        Raises:
            CassetteFormatError: A file is missing or damaged, or its name leads elsewhere.
        """
        if is_object(value):
            if FILE in value:
                return self._read(value)
            if len(value) == 1 and LITERAL in value and is_object(value[LITERAL]):
                return Literally({key: self.load(item) for key, item in value[LITERAL].items()})
            return {key: self.load(item) for key, item in value.items()}
        return [self.load(item) for item in value] if is_array(value) else value

    def _read(self, reference: dict[str, Any]) -> str:
        name, encoding = reference[FILE], reference.get("encoding")
        if not isinstance(name, str) or _NAME.fullmatch(name) is None or encoding not in ("text", "base64"):
            raise CassetteFormatError(
                "a $file has a name of 16 hex digits with an extension, and an encoding: text or base64"
            )
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CassetteFormatError(
                f"{path.parent.name}/{name}, which belongs to the cassette, cannot be read ({error.strerror}); "
                f"commit it together with the cassette, or record again with mode='rewrite'"
            ) from None
        if not _is_named_after(content, name):
            # Git may have changed how lines end, as it does on Windows unless it is told not to.
            unix = content.replace(b"\r\n", b"\n")
            others = (unix, unix.replace(b"\n", b"\r\n")) if encoding == "text" else ()
            found = next((other for other in others if _is_named_after(other, name)), None)
            if found is None:
                raise CassetteFormatError(
                    f"{path.parent.name}/{name} is not what it was when it was recorded; restore it, and if something "
                    f"changes it again, exempt it (for Git: `*.mcp.files/** -text` in .gitattributes)"
                )
            content = found
        if encoding == "base64":
            return b64encode(content).decode()
        return content.decode("utf-8", "surrogatepass")

    def forget(self, kept: set[str]) -> None:
        """Remove the files that no line of the cassette names.

        Args:
            kept: The names to keep.
        """
        if self.folder.is_symlink() or not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name not in kept:
                path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def files_in(value: Json) -> Iterator[str]:
    """The names of the files that a written value refers to."""
    if is_object(value):
        if FILE in value:
            name = value[FILE]
            if isinstance(name, str) and _NAME.fullmatch(name):
                yield name
            return
        inside = value.get(LITERAL)
        for item in (inside if is_object(inside) else value).values():
            yield from files_in(item)
    elif is_array(value):
        for item in value:
            yield from files_in(item)


def _binary(value: str) -> bytes | None:
    try:
        content = a2b_base64(value)
    except (Base64Error, ValueError):
        return None
    # Only what gives the very same text again.
    return content if b64encode(content).decode() == value else None


def _is_named_after(content: bytes, name: str) -> bool:
    return name.startswith(sha256(content).hexdigest()[:16])
