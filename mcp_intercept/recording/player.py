"""`Player`: finds for what a client sends what was recorded to it, and keeps account of what has been used."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from hashlib import blake2b
from threading import RLock
from typing import Any, Final

from mcp_intercept.errors import CassetteFormatError
from mcp_intercept.recording.eras import initialize_result
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.interactions import Interaction, name_in
from mcp_intercept.recording.matching import (
    REPEATED,
    Difference,
    Rules,
    differences,
    hidden,
    holds_hidden,
    holds_placeholder,
    mistake_in_placeholders,
)
from mcp_intercept.recording.misses import Drift, Miss, Nearest, Reason, Source
from mcp_intercept.recording.redaction import Redactor
from mcp_intercept.recording.store import Bucket, CassetteFile
from mcp_intercept.recording.values import canonical

_MOST_COMPARED: Final = 200
_MOST_NEAREST: Final = 3
_NOT_THERE: Final = frozenset({"unknown server", "never recorded", "arguments differ"})


class _Answers:
    """The places of what was recorded to one question, in order, by connection."""

    __slots__ = ("_last", "_left")

    def __init__(self, places: Iterable[int], file: CassetteFile) -> None:
        self._left: dict[int, deque[int]] = {}
        self._last: dict[int, int] = {}
        for place in places:
            connection = file.connection(place)
            self._left.setdefault(connection, deque()).append(place)
            self._last[connection] = place

    def next(self, connection: int, used: set[int], *, repeat: bool) -> int | None:
        """The next that was not used, of this connection if there is one, or else the last of all again."""
        own = self._left.get(connection)
        for left in ([own] if own is not None else []) + [other for other in self._left.values() if other is not own]:
            while left:
                place = left.popleft()
                if place not in used:
                    return place
            if repeat and left is own:
                return self._last[connection]
        return next(reversed(self._last.values())) if repeat else None


class _Index:
    """What was recorded about one thing, by what counts of the params.

    Where these are the same, a digest of them is: of ten thousand calls of a tool the texts would take too much room.
    """

    def __init__(self, places: Iterable[int], file: CassetteFile, rules: Rules) -> None:
        self._file = file
        self._places: dict[bytes, int | array[int]] = {}
        self._answers: dict[bytes, _Answers] = {}
        self.patterns: list[tuple[dict[str, Any], _Answers]] = []
        for place in places:
            interaction = file.head(place)
            essence = rules.essence(interaction.method, interaction.params)
            if holds_placeholder(essence):
                mistake = mistake_in_placeholders(essence)
                if mistake is not None:
                    raise CassetteFormatError(mistake, path=file.path, line=file.line_number(place))
                self.patterns.append((essence, _Answers((place,), file)))
                continue
            digest = _digest(essence)
            before = self._places.get(digest)
            if before is None:
                self._places[digest] = place
            elif isinstance(before, int):
                self._places[digest] = array("L", (before, place))
            else:
                before.append(place)

    def exact(self, essence: dict[str, Any]) -> _Answers | None:
        """What was recorded to the very same."""
        digest = _digest(essence)
        answers = self._answers.get(digest)
        if answers is None:
            places = self._places.get(digest)
            if places is None:
                return None
            answers = _Answers((places,) if isinstance(places, int) else places, self._file)
            self._answers[digest] = answers
        return answers


def _digest(essence: dict[str, Any]) -> bytes:
    return blake2b(canonical(essence).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Player:
    """What was recorded, and what of it has been used.

    Args:
        file: The cassette; `None` if there is none.
        rules: What counts as the same.
        redactor: What requests go through before they are compared, as they did when they were recorded.
        source: Names the cassette in reports.
    """

    def __init__(self, file: CassetteFile | None, rules: Rules, redactor: Redactor, source: Source) -> None:
        self.file = file
        self.rules = rules
        self.redactor = redactor
        self.lock: AbstractContextManager[Any] = RLock()
        self.misses: list[Miss] = []
        """What was asked and not found, or answered otherwise."""
        self.drifts: list[Drift] = []
        """Calls that were answered although their arguments have changed (`order="tool"`)."""
        self.has_ended: bool = False
        """Whether nothing is answered any longer."""
        self.was_asked: bool = False
        """Whether any connection was opened."""
        self.failures: list[Exception] = []
        """What went wrong while it was looked for an answer."""
        self._source = source
        self._used: set[int] = set()
        self._indices: dict[Bucket, _Index] = {}
        self._opened: dict[str, int] = {}
        self._sequences: dict[str, deque[int]] = {}
        self._of_tools: dict[Bucket, deque[int]] = {}

    @property
    def option(self) -> str:
        """How the mode can be changed from outside, if it can."""
        return self._source.option

    @property
    def servers(self) -> list[str]:
        """The names of the servers in the cassette."""
        return [] if self.file is None else self.file.servers

    def unused(self) -> list[int]:
        """Where the requests are that nobody has made, counted from 0."""
        if self.file is None:
            return []
        return sorted(
            place
            for (_, method, _), places in self.file.buckets.items()
            if method not in REPEATED and not method.startswith("notifications/")
            for place in places
            if place not in self._used
        )

    def params(self, method: str, params: dict[str, Any] | None) -> dict[str, Any] | None:
        """The params of a live message, redacted as those in the cassette were."""
        redacted: dict[str, Any] | None = hidden(params, self.redactor.params(method, params))
        return redacted

    def result(self, method: str, result: dict[str, Any]) -> dict[str, Any]:
        """The result that a live request of that method has, redacted likewise."""
        redacted: dict[str, Any] = hidden(result, self.redactor.result(method, result))
        return redacted

    def open(self, server: str) -> int:
        """Begin a connection to a server; the value is which one it is, from 1."""
        with self.lock:
            self.was_asked = True
            self._opened[server] = number = self._opened.get(server, 0) + 1
            return number

    def load(self, place: int) -> Interaction:
        """An interaction of the cassette."""
        assert self.file is not None  # noqa: S101 - whoever has a place has it from there
        return self.file.load(place)

    def head(self, place: int) -> Interaction:
        """An interaction of the cassette without what came of it."""
        assert self.file is not None  # noqa: S101 - as above
        return self.file.head(place)

    def find(self, server: str, connection: int, method: str, params: dict[str, Any] | None) -> int | None:
        """Where the answer to a message is, which is used then; `None` if there is none.

        Args:
            server: The name of the server.
            connection: Which connection to it.
            method: The method.
            params: The params, redacted.
        """
        if self.file is None:
            return None
        bucket = (server, method, name_in(method, params))
        repeat = method in REPEATED
        if self.rules.order == "strict" and not repeat and not method.startswith("notifications/"):
            return self._next_in_order(server, method, params)
        essence = self.rules.essence(method, params)
        index = self._index(bucket, self.file)
        answers = index.exact(essence)
        place = None if answers is None else answers.next(connection, self._used, repeat=repeat)
        if place is None:
            for pattern, fitting in index.patterns:
                if not differences(pattern, essence, 1):
                    place = fitting.next(connection, self._used, repeat=repeat)
                    if place is not None:
                        break
        if place is None and holds_hidden(essence):
            # Perhaps it was recorded with another one.
            places = self._places(bucket)
            fits = (p for p in places if p not in self._used and not self._differences(p, method, params, 1))
            place = next(fits, None)
        if place is None and self.rules.order == "tool":
            place = self._next_of_tool(bucket, essence)
        if place is not None:
            self._used.add(place)
        return place

    def _index(self, bucket: Bucket, file: CassetteFile) -> _Index:
        if bucket not in self._indices:
            self._indices[bucket] = _Index(self._places(bucket), file, self.rules)
        return self._indices[bucket]

    def _places(self, bucket: Bucket) -> array[int]:
        return array("L") if self.file is None else self.file.buckets.get(bucket, array("L"))

    def _next_in_order(self, server: str, method: str, params: dict[str, Any] | None) -> int | None:
        left = self._sequences.get(server)
        if left is None:
            left = self._sequences[server] = deque(sorted(self._of_server(server)))
        if left and not self._differences(left[0], method, params, 1):
            place = left.popleft()
            self._used.add(place)
            return place
        return None

    def _of_server(self, server: str) -> Iterator[int]:
        assert self.file is not None  # noqa: S101 - as above
        for (name, method, _), places in self.file.buckets.items():
            if name == server and method not in REPEATED and not method.startswith("notifications/"):
                yield from places

    def _next_of_tool(self, bucket: Bucket, essence: dict[str, Any]) -> int | None:
        left = self._of_tools.get(bucket)
        if left is None:
            left = self._of_tools[bucket] = deque(self._places(bucket))
        while left:
            place = left.popleft()
            if place not in self._used:
                interaction = self.head(place)
                recorded = self.rules.essence(interaction.method, interaction.params)
                found = tuple(differences(recorded, essence))
                self.drifts.append(
                    Drift(
                        server=bucket[0],
                        method=bucket[1],
                        name=bucket[2],
                        n=interaction.n,
                        differences=found,
                        part="request",
                        option=self.option,
                    )
                )
                return place
        return None

    def _differences(self, place: int, method: str, params: dict[str, Any] | None, limit: int = 20) -> list[Difference]:
        interaction = self.head(place)
        recorded = self.rules.essence(interaction.method, interaction.params)
        now = self.rules.essence(method, params)
        if interaction.method != method:
            return [Difference("(method)", interaction.method, method), *differences(recorded, now, limit - 1)]
        return differences(recorded, now, limit)

    def source(self) -> Source:
        """The cassette as it is now, for a report."""
        recorded = 0 if self.file is None else len(self.file)
        return replace(self._source, recorded=recorded, unused=len(self.unused()))

    def miss(self, server: str, method: str, params: dict[str, Any] | None) -> Miss:
        """Note that there is no answer to a request, and find out why.

        Args:
            server: The name of the server.
            method: The method.
            params: The params, redacted.
        """
        reason: Reason
        nearest: list[Nearest] = []
        name = name_in(method, params)
        if self.file is None:
            reason = "no cassette"
        elif server not in self.servers:
            reason = "unknown server"
        else:
            sequence = self._sequences.get(server)
            if sequence:
                reason, nearest = "out of order", [self._near(sequence[0], method, params)]
            else:
                nearest = self._nearest(server, method, name, params)
                same = [near for near in nearest if not near.differences]
                if same:
                    reason, nearest = "used up", same
                else:
                    known = bool(self._places((server, method, name)))
                    reason, nearest = ("arguments differ" if known else "never recorded"), nearest[:_MOST_NEAREST]
        return self._note(server, method, params, reason, nearest)

    def _elsewhere(self, server: str, method: str, params: dict[str, Any] | None) -> tuple[str, ...]:
        """The other servers that were asked the very same."""
        if method in REPEATED:
            return ()
        essence, name = self.rules.essence(method, params), name_in(method, params)
        return tuple(
            other
            for other in self.servers
            if other != server and self.file is not None
            if self._index((other, method, name), self.file).exact(essence) is not None
        )

    def _note(
        self, server: str, method: str, params: dict[str, Any] | None, reason: Reason, nearest: list[Nearest]
    ) -> Miss:
        miss = self._miss(server, method, params, reason, nearest)
        self.misses.append(miss)
        return miss

    def _miss(
        self, server: str, method: str, params: dict[str, Any] | None, reason: Reason, nearest: list[Nearest]
    ) -> Miss:
        return Miss(
            server=server,
            method=method,
            name=name_in(method, params),
            params=self.rules.essence(method, params),
            reason=reason,
            nearest=tuple(nearest),
            servers=tuple(self.servers),
            elsewhere=self._elsewhere(server, method, params) if reason in _NOT_THERE else (),
            source=self.source(),
        )

    def _near(self, place: int, method: str, params: dict[str, Any] | None) -> Nearest:
        interaction = self.head(place)
        return Nearest(
            n=interaction.n,
            line=interaction.line,
            title=interaction.title,
            used=place in self._used,
            differences=tuple(self._differences(place, method, params)),
        )

    def _nearest(self, server: str, method: str, name: str | None, params: dict[str, Any] | None) -> list[Nearest]:
        places = list(self._places((server, method, name)))
        if not places and self.file is not None:
            places = [
                place
                for (at, other, _), found in self.file.buckets.items()
                if (at, other) == (server, method)
                for place in found
            ]
        near = [self._near(place, method, params) for place in places[:_MOST_COMPARED]]
        return sorted(near, key=lambda one: (len(one.differences), one.used, one.n))

    def differs(self, interaction: Interaction, event: dict[str, Any], answer: Frame, server: str) -> None:
        """Check what the client answers to a request of the server's, and note it as a miss if it is not as recorded.

        Args:
            interaction: What the request belongs to.
            event: The request, and what was answered when it was recorded.
            answer: What is answered now.
            server: The name of the server.
        """
        method: str = event["server_request"]
        refused, refuses = "client_error" in event, answer.error is not None
        if refused and refuses:
            return  # in other words perhaps, as those are the SDK's
        recorded: dict[str, Any]
        now: dict[str, Any]
        if not refused and answer.error is None:
            recorded = self.rules.answer(method, event["client_result"])
            now = self.rules.answer(method, self.result(method, answer.result or {}))
        else:
            recorded = {"error": event["client_error"]} if refused else {"result": event["client_result"]}
            if answer.error is None:
                now = {"result": self.result(method, answer.result or {})}
            else:
                now = {"error": self.redactor.error(answer.error)}
        found = differences(recorded, now)
        if found and self.file is not None:
            near = Nearest(
                n=interaction.n, line=interaction.line, title=interaction.title, used=True, differences=tuple(found)
            )
            self._note(server, method, event.get("params"), "answer differs", [near])

    def left_waiting(self, server: str, interaction: Interaction) -> Miss:
        """Tell that a client waits for an answer that it did not wait for when it was recorded.

        It counts as a miss where the client said then that it gave up. One that did not say so does not now, either,
        and may have given up long ago.
        """
        near = Nearest(n=interaction.n, line=interaction.line, title=interaction.title, used=True)
        miss = self._miss(server, interaction.method, interaction.params, "left waiting", [near])
        if any("cancelled" in event for event in interaction.events):
            self.misses.append(miss)
        return miss

    def handshake(self, server: str, requested: str) -> dict[str, Any] | None:
        """What to answer to `initialize` where it was not recorded; `None` if nothing is known of the server."""
        if self.file is None or server not in self.servers:
            return None
        places = self._places((server, "server/discover", None))
        discovered = self.load(places[0]).result if places else None
        methods = {method for name, method, _ in self.file.buckets if name == server}
        return initialize_result(requested, server, None, discovered, methods)
