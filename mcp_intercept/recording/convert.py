"""`convert`: interactions out of what other recorders of MCP have written.

- mcp-cassette (up to its format 3): one JSON object with all messages of a session, in order;
- mcp-recorder (its format 1): one JSON object with a list of requests and the response to each;
- mcp-rec: a JSON object per line, each a message with its direction; a second session is appended to the first.

Which of them it is, is told by what is in the file. All of them write JSON; none is read by its own code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteFormatError
from mcp_intercept.recording.eras import SERVER_INFO, meta_of
from mcp_intercept.recording.interactions import Interaction, title_of
from mcp_intercept.recording.lines import FORMAT
from mcp_intercept.recording.matching import HANDSHAKES
from mcp_intercept.recording.recorder import STATE, SUBSCRIPTION_ID
from mcp_intercept.recording.values import Json, as_object, is_array, is_object

_MCP_CASSETTE_FORMAT: Final = 3
_MCP_RECORDER_FORMAT: Final = "1"

_UNKNOWN_SERVER: Final = "server"

_DIRECTIONS: Final[dict[str, Literal["client", "server"]]] = {"client->server": "client", "server->client": "server"}
"""Who sends, in the words of mcp-rec."""


class _Sent(NamedTuple):
    """A message, as a peer has kept it."""

    by: Literal["client", "server"]
    message: dict[str, Any]
    exchange: int | None = None
    """Which HTTP exchange it belongs to, where that is known."""


def convert(path: Path) -> list[Interaction]:
    """Read a cassette of mcp-cassette, mcp-recorder or mcp-rec.

    Responses are found by their ids within a connection. What a server sent of itself belongs to the request with its
    progress token or in its HTTP exchange, else to the latest that still waited for its answer, else to what came
    last. A server is named as it names itself, else `server`.

    What those recorders leave out cannot be brought back: mcp-recorder keeps no notifications of servers over stdio,
    and of an answer that was streamed only the first event. If that is not the response, the request is left out, with
    a `UserWarning`: it would only be answered wrongly.

    Args:
        path: The file.

    Returns:
        What was recorded, in the order of the file.

    Raises:
        CassetteFormatError: It is none of these, is damaged, or was written by a later version.
        OSError: It cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CassetteFormatError("this is no text in UTF-8", path=path) from None
    whole = _whole(text)
    if whole is not None and isinstance(whole.get("messages"), list) and "format_version" in whole:
        return _Reader().read(_of_mcp_cassette(whole, path))
    if whole is not None and isinstance(whole.get("interactions"), list) and isinstance(whole.get("version"), str):
        return _Reader().read(_of_mcp_recorder(whole, path))
    return _Reader().read(_of_mcp_rec(text, path))


def _whole(text: str) -> dict[str, Any] | None:
    """The file as one object, or `None` if it is none."""
    return as_object(_json(text))


def _json(text: str) -> Json:
    """The value, or `None` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_mcp_cassette(whole: dict[str, Any], path: Path) -> Iterator[_Sent]:
    version = whole["format_version"]
    if not isinstance(version, int) or version > _MCP_CASSETTE_FORMAT:
        raise CassetteFormatError(
            f"it was written by mcp-cassette in its format {printable(str(version))}, and formats up to "
            f"{_MCP_CASSETTE_FORMAT} can be read; record it with mcp-cassette 0.4, or anew",
            path=path,
        )
    for i, entry in enumerate(whole["messages"]):
        if not is_object(entry) or entry.get("sender") not in ("client", "server"):
            raise CassetteFormatError(f"messages[{i}] is no message with a sender and a payload", path=path)
        if entry.get("kind") in ("raw", "unclassified"):
            continue  # what a server prints by mistake
        exchange = entry.get("exchange")
        message = _message(entry.get("payload"), f"messages[{i}]", path)
        yield _Sent(entry["sender"], message, exchange if isinstance(exchange, int) else None)


def _of_mcp_recorder(whole: dict[str, Any], path: Path) -> Iterator[_Sent]:
    version = whole["version"]
    if version.split(".")[0] != _MCP_RECORDER_FORMAT:
        raise CassetteFormatError(
            f"it was written by mcp-recorder in its format {printable(version)}, and {_MCP_RECORDER_FORMAT}.x can be "
            f"read; record it with mcp-recorder 0.5, or anew",
            path=path,
        )
    for i, entry in enumerate(whole["interactions"]):
        at = f"interactions[{i}]"
        if not is_object(entry) or entry.get("type") not in ("lifecycle", "notification", "jsonrpc_request"):
            raise CassetteFormatError(f"{at} is no request with a response", path=path)
        if entry["type"] == "lifecycle":
            continue  # of HTTP
        if entry.get("request") is None:
            _warn(path, f"{at} has no request, and is left out: mcp-recorder keeps none of a batch")
            continue
        request, response = _message(entry["request"], at, path), entry.get("response")
        if entry["type"] == "notification":
            yield _Sent("client", request)
        elif response is None or "method" in response:
            what = "no response" if response is None else "only a notification that came before the response"
            title = title_of(str(request.get("method")), _params(request).get("name"))
            _warn(path, f"{at} ({title}) is left out: mcp-recorder kept {what}; record it anew")
        else:
            # The two belong together whatever ids they have: clients that take turns use the same.
            answer = {**response, "id": request.get("id")} if is_object(response) else response
            yield _Sent("client", request)
            yield _Sent("server", _message(answer, at, path))


def _of_mcp_rec(text: str, path: Path) -> Iterator[_Sent]:
    recognised = False
    # Not splitlines(), which also splits where JSON does not end a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        entry = _json(line)
        said = entry.get("msg") if is_object(entry) else None
        by = _DIRECTIONS.get(str(entry.get("dir"))) if is_object(entry) else None
        if by is None or said is None:
            if recognised:
                raise CassetteFormatError("this is no line of a recording by mcp-rec", path=path, line=number)
            if is_object(entry) and entry.get("format") == FORMAT:
                raise CassetteFormatError("this is a cassette of mcp-intercept already; use it as it is", path=path)
            break
        recognised = True
        if is_object(said) and said.get("_unparsed"):
            continue  # what a server prints by mistake
        for message in said if is_array(said) else [said]:
            yield _Sent(by, _message(message, "this", path, number))
    if not recognised:
        raise CassetteFormatError(
            "this is nothing that can be converted: that are recordings by mcp-cassette, mcp-recorder and mcp-rec, "
            "all of them JSON",
            path=path,
        )


def _message(message: Json, at: str, path: Path, line: int | None = None) -> dict[str, Any]:
    """The message, checked.

    Raises:
        CassetteFormatError: It is no message of JSON-RPC.
    """
    if is_object(message):
        error = message.get("error")
        if isinstance(message.get("method"), str) and message["method"]:
            if message.get("params") is None or is_object(message["params"]):
                return message
        elif "id" in message and (is_object(message.get("result")) or (is_object(error) and _is_error(error))):
            return message
    raise CassetteFormatError(f"{at} is no message of JSON-RPC", path=path, line=line)


def _is_error(error: dict[str, Any]) -> bool:
    return isinstance(error.get("code"), int) and isinstance(error.get("message"), str)


def _warn(path: Path, what: str) -> None:
    warnings.warn(f"{path}: {what}", UserWarning, stacklevel=2)


class _Asked(NamedTuple):
    """A request of the client that is not answered so far."""

    interaction: Interaction
    token: Json
    """Its progress token, or `None`."""
    exchange: int | None


class _Connection:
    """One connection to the server."""

    def __init__(self) -> None:
        self.interactions: list[Interaction] = []
        self.pending: dict[str, _Asked] = {}
        self.questions: dict[str, dict[str, Any]] = {}
        """Requests of the server that are not answered so far, by id."""
        self.ids: set[str] = set()
        """All ids that the client has used."""
        self.settled = False
        """Whether anything but handshakes has been said."""

    def ends_before(self, message: dict[str, Any]) -> bool:
        """Whether a message of the client is the first of another connection."""
        again = message["method"] == "initialize" or str(message.get("id")) in self.ids
        return self.settled and again and message["method"] in HANDSHAKES

    def about(self, sent: _Sent) -> Interaction | None:
        """What a message that the server sent of itself belongs to."""
        params = _params(sent.message)
        waiting = list(self.pending.values())
        linked = self.pending.get(str(meta_of(params).get(SUBSCRIPTION_ID)))
        if linked is not None:
            return linked.interaction
        if (token := params.get("progressToken")) is not None:
            # mcp-cassette makes all tokens the same, so that the first of several tells nothing.
            waiting = [asked for asked in waiting if asked.token == token] or waiting
        if sent.exchange is not None:
            waiting = [asked for asked in waiting if asked.exchange == sent.exchange] or waiting
        if waiting:
            return waiting[-1].interaction
        return self.interactions[-1] if self.interactions else None

    def name(self) -> str:
        """What the server calls itself."""
        for interaction in self.interactions:
            result = interaction.result if interaction.method in HANDSHAKES else None
            for info in (result or {}).get("serverInfo"), meta_of(result).get(SERVER_INFO):
                if is_object(info) and isinstance(info.get("name"), str) and info["name"]:
                    return str(info["name"])
        return _UNKNOWN_SERVER


class _Reader:
    """Messages in order go in; interactions come out."""

    def __init__(self) -> None:
        self._connections = [_Connection()]
        self._early: list[dict[str, Any]] = []
        self._count = 0

    def read(self, messages: Iterable[_Sent]) -> list[Interaction]:
        """Take all messages, in order."""
        for sent in messages:
            if sent.by == "server":
                self._from_server(sent)
            elif "method" in sent.message:
                self._from_client(sent)
            else:
                self._answered(sent.message)
        numbers: dict[str, int] = {}
        for connection in self._connections:
            name = connection.name()
            numbers[name] = numbers.get(name, 0) + 1
            for interaction in connection.interactions:
                interaction.server, interaction.connection = name, numbers[name]
        return [interaction for connection in self._connections for interaction in connection.interactions]

    def _from_client(self, sent: _Sent) -> None:
        message = sent.message
        if self._connections[-1].ends_before(message):
            self._connections.append(_Connection())
        connection = self._connections[-1]
        method, params = message["method"], _params(message)
        if method == "notifications/cancelled":
            # What the server still says to it is for nobody.
            cancelled = connection.pending.pop(str(params.get("requestId")), None)
            if cancelled is not None:
                cancelled.interaction.events.append({"cancelled": True})
            return
        self._count += 1
        kept = _without(
            params, "_meta", "requestState", "progressToken" if method == "notifications/progress" else "_meta"
        )
        interaction = Interaction(
            n=self._count,
            server=_UNKNOWN_SERVER,
            connection=1,
            kind="request" if "id" in message else "notification",
            method=method,
            params=kept or None,
            events=self._early,
        )
        self._early = []
        connection.interactions.append(interaction)
        connection.settled = connection.settled or method not in HANDSHAKES
        if "id" in message:
            connection.ids.add(str(message["id"]))
            asked = _Asked(interaction, meta_of(params).get("progressToken"), sent.exchange)
            connection.pending[str(message["id"])] = asked

    def _answered(self, message: dict[str, Any]) -> None:
        """The client answers the server."""
        question = self._connections[-1].questions.pop(str(message["id"]), None)
        if question is not None:
            question |= {f"client_{key}": value for key, value in _outcome(message).items()}

    def _from_server(self, sent: _Sent) -> None:
        message, connection = sent.message, self._connections[-1]
        method, params = message.get("method"), _params(message)
        if method is None:
            asked = connection.pending.pop(str(message["id"]), None)
            if asked is not None:
                asked.interaction.events.append(_outcome(message))
            return
        if method == "notifications/cancelled":
            question = connection.questions.pop(str(params.get("requestId")), None)
            if question is not None:
                question["withdrawn"] = True
            return
        interaction = connection.about(sent)
        events = self._early if interaction is None else interaction.events
        if "id" in message:
            event: dict[str, Any] = {"server_request": method}
            params = _without(params, "_meta")
        else:
            event = {"server_notification": method}
            meta = _without(meta_of(params), SUBSCRIPTION_ID)
            params = _without(params, "_meta", "progressToken" if method == "notifications/progress" else "_meta")
            params |= {"_meta": meta} if meta else {}
        events.append(event | {"params": params} if params else event)
        if "id" in message:
            connection.questions[str(message["id"])] = events[-1]


def _outcome(message: dict[str, Any]) -> dict[str, Any]:
    if "result" not in message:
        return {"error": {key: message["error"][key] for key in ("code", "message", "data") if key in message["error"]}}
    result = message["result"]
    return {"result": {**result, "requestState": STATE} if isinstance(result.get("requestState"), str) else result}


def _params(message: dict[str, Any]) -> dict[str, Any]:
    return message.get("params") or dict[str, Any]()


def _without(params: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in names}
