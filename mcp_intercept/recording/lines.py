"""The lines of a cassette: their types, of which the JSON Schema is made, and how one is read and written.

A cassette is a text file of JSON objects, one on a line: a header, the interactions in order, an end. An interaction
is the line of what the client sent, and below it, with the same number, the lines of what the server did about it.
"""

from __future__ import annotations

import re
from json import JSONDecodeError
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict

from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteFormatError
from mcp_intercept.recording.journal import JOURNAL
from mcp_intercept.recording.values import decode, is_object

FORMAT: Final = "mcp-cassette"
VERSION: Final = 1

# Strict and closed: a key misspelled by hand is an error, not ignored.
_closed = with_config(ConfigDict(extra="forbid", strict=True))
_MOST = 2**31 - 1
_Number = Annotated[
    int, Field(ge=1, le=_MOST, description="The number of the interaction; counts up through the file.")
]
_Method = Annotated[str, Field(min_length=1, description="The name of the method on the wire.")]
_Server = Annotated[str, Field(min_length=1, description="The name of the server within the cassette.")]
_Connection = Annotated[int, Field(ge=2, le=_MOST, description="Which connection to that server, if not the first.")]
_Params = Annotated[dict[str, Any], Field(description="The params of the message; those of requests have no `_meta`.")]
_Seconds = Annotated[float, Field(ge=0, description="Seconds since the request was sent, if recorded with timing.")]


@_closed
class HeaderLine(TypedDict):
    """The first line of a cassette."""

    format: Literal["mcp-cassette"]
    version: Annotated[int, Field(ge=1, le=VERSION, description="The version of the format.")]
    lost: NotRequired[
        Annotated[int, Field(ge=1, description="How many messages could not be written when it was recorded.")]
    ]


@_closed
class ErrorObject(TypedDict):
    """The error of a JSON-RPC response."""

    code: int
    message: str
    data: NotRequired[Any]


@_closed
class RequestLine(TypedDict):
    """The client sends a request; the lines that follow with the same number are about it."""

    n: _Number
    server: _Server
    connection: NotRequired[_Connection]
    request: _Method
    params: NotRequired[_Params]


@_closed
class NotificationLine(TypedDict):
    """The client sends a notification."""

    n: _Number
    server: _Server
    connection: NotRequired[_Connection]
    notification: _Method
    params: NotRequired[_Params]


@_closed
class ServerNotificationLine(TypedDict):
    """The server sends a notification: before the result where it stands above it, else after."""

    n: _Number
    server_notification: _Method
    params: NotRequired[_Params]
    seconds: NotRequired[_Seconds]


@_closed
class ServerRequestLine(TypedDict):
    """The server asks the client; and what the client answered, if it did."""

    n: _Number
    server_request: _Method
    params: NotRequired[_Params]
    client_result: NotRequired[_Params]
    client_error: NotRequired[ErrorObject]
    withdrawn: NotRequired[Annotated[Literal[True], Field(description="The server cancelled its request.")]]
    seconds: NotRequired[_Seconds]


@_closed
class ResultLine(TypedDict):
    """The server answers with a result."""

    n: _Number
    result: dict[str, Any]
    seconds: NotRequired[_Seconds]


@_closed
class ErrorLine(TypedDict):
    """The server answers with an error."""

    n: _Number
    error: ErrorObject
    seconds: NotRequired[_Seconds]


@_closed
class CancelledLine(TypedDict):
    """The client cancelled its request."""

    n: _Number
    cancelled: Literal[True]
    seconds: NotRequired[_Seconds]


@_closed
class ClosedLine(TypedDict):
    """The connection ended while the request waited for its answer."""

    n: _Number
    closed: Annotated[str, Field(min_length=1, description="How: the end of the stream, or a kind of exception.")]
    seconds: NotRequired[_Seconds]


@_closed
class EndLine(TypedDict):
    """The last line, by which a file that was cut short is known."""

    end: Literal[True]


_CONFLICT_MARKS: Final = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")
_KINDS: Final[dict[str, type[Any]]] = {
    "format": HeaderLine,
    "request": RequestLine,
    "notification": NotificationLine,
    "server_notification": ServerNotificationLine,
    "server_request": ServerRequestLine,
    "result": ResultLine,
    "error": ErrorLine,
    "cancelled": CancelledLine,
    "closed": ClosedLine,
    "end": EndLine,
}
"""The key that tells what a line is, and its type."""


_ADAPTERS: Final[dict[str, TypeAdapter[Any]]] = {kind: TypeAdapter(line) for kind, line in _KINDS.items()}

_ANY_LINE: Final[TypeAdapter[Any]] = TypeAdapter(
    HeaderLine
    | RequestLine
    | NotificationLine
    | ServerNotificationLine
    | ServerRequestLine
    | ResultLine
    | ErrorLine
    | CancelledLine
    | ClosedLine
    | EndLine
)

# What every line that this package writes begins with; reading it off saves taking the line apart twice.
_BEGIN = re.compile(rb'\{(?:"n":\d+,)?(?:"server":"[^"\\]*",)?(?:"connection":\d+,)?"(\w+)":')


def kind_of(text: bytes) -> str | None:
    """What kind of line it is, as far as its beginning tells."""
    match = _BEGIN.match(text)
    kind = match.group(1).decode() if match else None
    return kind if kind in _ADAPTERS else None


def read_line(text: bytes, path: object, number: int) -> tuple[str, dict[str, Any]]:
    """A line of a cassette, checked.

    Args:
        text: The line.
        path: The file, for errors.
        number: The number of the line in the file, from 1, for errors.

    Returns:
        What kind of line it is, and the line.

    Raises:
        CassetteFormatError: It is none, or of a later version.
    """
    kind = kind_of(text)
    # Those two are taken for numbers by pydantic, and are none in JSON.
    if kind is not None and b"NaN" not in text and b"Infinity" not in text:
        try:
            return kind, _ADAPTERS[kind].validate_json(text)
        except ValidationError:
            pass  # JSON that pydantic does not take may still be some, and what is wrong is told better below
    try:
        line = decode(text)
    except ValueError as error:
        said = f"{error.msg}, at character {error.pos + 1}" if isinstance(error, JSONDecodeError) else str(error)
        if text.startswith(_CONFLICT_MARKS):
            raise CassetteFormatError(
                "here two versions of it were merged, and are both still there; take one of them, "
                "or delete the file and record it again",
                path=path,
                line=number,
            ) from None
        what = "no text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"no JSON ({printable(said)})"
        raise CassetteFormatError(
            f"this is {what}; restore the file, or delete it and record it again", path=path, line=number
        ) from None
    if not is_object(line):
        raise CassetteFormatError("a line has to be a JSON object", path=path, line=number)
    kind = next((key for key in _KINDS if key in line), None)
    if kind is None:
        raise CassetteFormatError(
            f"this is no line of a cassette; it has none of {', '.join(_KINDS)}", path=path, line=number
        )
    if kind == "format" and line["format"] == JOURNAL:
        raise CassetteFormatError(
            "this is the journal of a recording that has not come to its end; "
            "`mcp-intercept cassette recover` makes a cassette of it",
            path=path,
            line=number,
        )
    if kind == "format" and isinstance(line.get("version"), int) and line["version"] > VERSION:
        raise CassetteFormatError(
            f"it is of version {line['version']} of the format, and this is for {VERSION}; "
            f"upgrade mcp-intercept-sdk to read it",
            path=path,
            line=number,
        )
    try:
        return kind, _ADAPTERS[kind].validate_python(line)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in found["loc"]) or "the line"
        raise CassetteFormatError(
            f"{printable(where)}: {found['msg'][:1].lower()}{found['msg'][1:]}", path=path, line=number
        ) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one line of a cassette."""
    schema = _ANY_LINE.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of an {FORMAT}, version {VERSION} (*.mcp.jsonl)",
        **schema,
    }
