"""`Assembly`: what belongs to which request, and in what order a cassette keeps it.

It is fed with the entries of a journal, while they are written or when a journal is recovered.

The order is that of the requests, except where that is chance: what was on its way at the same time is put in the order
of what it says. Who caused what is known from where it was sent: a message comes after the one that was sent before it
in the same context (of a task, or of whoever started the task).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, Final

from mcp_intercept.recording.matching import HANDSHAKES, REPEATED
from mcp_intercept.recording.stored import LARGE_BINARY, STORED, SideFiles
from mcp_intercept.recording.values import decode, encode

Body = bytes | int
"""Members of a JSON object, without its braces; or where they are in the journal, see `place_of`."""
Event = Body | list[Body]
"""What a server said; of a question, what became of it is behind it."""

Id = str | int

_LENGTH_BITS: Final = 40

LISTEN: Final = "subscriptions/listen"
_LISTS: Final = REPEATED - HANDSHAKES
_WITHDRAWN: Final = b'"withdrawn":true'
_CANCELLED: Final = b'"cancelled":true'


def place_of(begin: int, length: int) -> int:
    """Where something is in the journal: one number, as there are many of them."""
    return begin << _LENGTH_BITS | length


class Sent:
    """What a client sent, and what came of it."""

    __slots__ = (
        "after",
        "body",
        "children",
        "connection",
        "end",
        "events",
        "last",
        "method",
        "since",
        "start",
        "terminal",
    )

    def __init__(self, connection: Connection, method: str, body: Body, after: Sent | None, start: int) -> None:
        self.connection: Connection = connection
        self.method: str = method
        self.body: Body = body
        self.after: Sent | None = after
        self.start: int = start
        """When it was sent, counted in messages."""
        self.end: int = start
        """When it was answered or cancelled."""
        self.last: int = start
        """When the last of what it led to was."""
        self.children: list[Sent] | None = None
        self.events: list[Event] = []
        self.terminal: int | None = None
        """Which event ended it."""
        self.since: float = 0.0
        """When it was sent, on the clock."""


class Connection:
    """A connection to a server, while messages pass."""

    __slots__ = ("asked", "busy", "early", "ended", "last", "lists", "loose", "pending", "period", "server", "tokens")

    def __init__(self, server: str) -> None:
        self.server: str = server
        self.pending: dict[Id, Sent] = {}
        """Requests of the client that wait for their answers."""
        self.tokens: dict[Id, Sent] = {}
        """The same, by progress token."""
        self.asked: dict[Id, tuple[str, list[Body]]] = {}
        """Requests of the server, with their methods."""
        self.busy: int = 0
        self.period: list[Sent] = []
        """The requests since the last time that none was on its way, but for lists."""
        self.lists: list[Sent] = []
        """The lists since then. A server hardly asks or tells anything for these."""
        self.loose: list[Event] = []
        """What the server sent in that time that may belong to any of them."""
        self.early: list[Event] = []
        """What the server sent before the client sent anything."""
        self.last: Sent | None = None
        self.ended: str | None = None


class Assembly:
    """Everything that was sent and received in a recording.

    Args:
        read: Reads from the journal.
    """

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._connections: dict[int, Connection] = {}
        self._sent: list[Sent] = []
        self._by_number: dict[int, Sent] = {}
        self._periods: list[tuple[list[Sent], list[Event]]] = []
        self._now = 0
        self.closed: int = 0
        """How many requests were left without an answer by a connection that ended; known once `lines()` is through."""

    def connection(self, number: int) -> Connection:
        """A connection, by the number that its entries carry."""
        return self._connections[number]

    def add(self, head: dict[str, Any], body: Body) -> None:
        """Take an entry of the journal.

        Args:
            head: All of it but the line.
            body: Its line, if it has one.
        """
        self._now += 1
        number: int = head["c"]
        if "server" in head:
            self._connections[number] = Connection(head["server"])
            return
        connection = self._connections[number]
        if "q" in head:
            self._add_sent(connection, head, body)
        elif "of" in head:
            self._add_response(connection, head["of"], body)
        elif "answers" in head:
            method_and_event = connection.asked.pop(head["answers"], None)
            if method_and_event is not None:
                method_and_event[1].append(body)
        elif "cancels" in head:
            self._add_cancelled(connection, head["cancels"])
        elif "withdraws" in head:
            method_and_event = connection.asked.pop(head["withdraws"], None)
            if method_and_event is not None:
                method_and_event[1].append(_WITHDRAWN)
        elif "closed" in head:
            self._add_end(connection, head["closed"])
        else:
            self._add_from_server(connection, head, body)

    def _add_sent(self, connection: Connection, head: dict[str, Any], body: Body) -> None:
        method: str = head["m"]
        after = self._by_number.get(head.get("a", 0))
        # Nothing is caused by a list: whether the SDK asks for one between two calls, is chance.
        while after is not None and after.method in _LISTS:
            after = after.after
        sent = Sent(connection, method, body, after, self._now)
        self._sent.append(sent)
        self._by_number[head["q"]] = sent
        sent.events += connection.early
        connection.early = []
        connection.last = sent
        request_id = head.get("id")
        if request_id is None:
            return
        connection.pending[request_id] = sent
        if "token" in head:
            connection.tokens[head["token"]] = sent
        if method != LISTEN:  # which is on its way for as long as anything is
            if connection.busy == 0:
                connection.period, connection.lists = [], []
            connection.busy += 1
            (connection.lists if method in _LISTS else connection.period).append(sent)

    def _add_response(self, connection: Connection, request_id: Id, body: Body) -> None:
        sent = connection.pending.pop(request_id, None)
        if sent is not None:
            self._end(connection, sent, body)

    def _add_cancelled(self, connection: Connection, request_id: Id) -> None:
        sent = connection.pending.pop(request_id, None)
        if sent is not None:
            # What is said to it later is for nobody, and whether it is still said, is chance.
            self._end(connection, sent, _CANCELLED)

    def _end(self, connection: Connection, sent: Sent, body: Body) -> None:
        sent.terminal = len(sent.events)
        sent.events.append(body)
        sent.end = self._now
        if sent.method != LISTEN:
            connection.busy -= 1
            if connection.busy == 0:
                self._close_period(connection)

    def _close_period(self, connection: Connection) -> None:
        if connection.loose:
            self._periods.append((connection.period or connection.lists, connection.loose))
            connection.loose = []

    def _add_from_server(self, connection: Connection, head: dict[str, Any], body: Body) -> None:
        event: Event = body
        if "id" in head:
            event = [body]
            connection.asked[head["id"]] = (head["m"], event)
        sent = None
        if "token" in head:
            sent = connection.tokens.get(head["token"])
        elif "sub" in head:
            sent = connection.pending.get(head["sub"])
        elif connection.busy == 0:
            sent = connection.last
        else:
            may_be = connection.period or connection.lists
            if len(may_be) > 1:
                connection.loose.append(event)
                return
            [sent] = may_be
        (connection.early if sent is None else sent.events).append(event)

    def _add_end(self, connection: Connection, how: str) -> None:
        if connection.ended is None:
            connection.ended = how

    def _close(self) -> None:
        """Give everything that is left its end."""
        for connection in self._connections.values():
            if connection.ended is not None:
                closed = b'"closed":' + encode(connection.ended)
                for sent in connection.pending.values():
                    sent.terminal = len(sent.events)
                    sent.events.append(closed)
                    self.closed += 1
            connection.pending.clear()
            self._close_period(connection)

    def lines(self, first: int, side_files: SideFiles) -> Iterator[bytes]:
        """The lines of the cassette, once all has been added.

        Args:
            first: The number of the first interaction.
            side_files: Where large values go.

        Raises:
            OSError: The journal or a file cannot be read or written.
        """
        self._close()
        ordered = self._ordered()
        self._settle(ordered)
        numbers: dict[Connection, int] = {}
        counts: dict[str, int] = {}
        n = first
        for sent in self._without_repetitions(ordered):
            connection = sent.connection
            if connection not in numbers:
                numbers[connection] = counts[connection.server] = counts.get(connection.server, 0) + 1
            number = numbers[connection]
            told = b'{"n":%d,"server":%s,' % (n, encode(connection.server))
            if number > 1:
                told += b'"connection":%d,' % number
            yield told + self._stored(sent.body, side_files) + b"}\n"
            for event in sent.events:
                yield b'{"n":%d,' % n + self._stored(event, side_files) + b"}\n"
            n += 1

    def _stored(self, event: Event, side_files: SideFiles) -> bytes:
        body = self._text(event)
        if b'"$' not in body and len(body) <= LARGE_BINARY:
            return body
        line = decode(b"{" + body + b"}")
        return encode({key: side_files.store(line[key]) if key in STORED else line[key] for key in line})[1:-1]

    def _text(self, event: Event) -> bytes:
        if isinstance(event, list):
            return b",".join(map(self._text, event))
        if isinstance(event, bytes):
            return event
        return self._read(event >> _LENGTH_BITS, event & ((1 << _LENGTH_BITS) - 1))

    def _content(self, sent: Sent) -> bytes:
        texts = [encode(sent.connection.server), self._text(sent.body), *map(self._text, sent.events)]
        return b"\n".join(texts)

    def _ordered(self) -> list[Sent]:
        roots: list[Sent] = []
        for sent in self._sent:
            sent.last = max(sent.end, sent.start)
            if sent.after is None:
                roots.append(sent)
            elif sent.after.children is None:
                sent.after.children = [sent]
            else:
                sent.after.children.append(sent)
        # From the last to the first, so that whatever one led to is done before it.
        for sent in reversed(self._sent):
            if sent.children is not None and len(sent.children) > 1:
                sent.children = self._arranged(sent.children)
            if sent.after is not None:
                sent.after.last = max(sent.after.last, sent.last)
        ordered: list[Sent] = []
        stack = self._arranged(roots)[::-1]
        while stack:
            sent = stack.pop()
            ordered.append(sent)
            if sent.children is not None:
                stack.extend(reversed(sent.children))
        return ordered

    def _arranged(self, siblings: list[Sent]) -> list[Sent]:
        """In the order in which they were sent, and those that overlap, with all they led to, by what they say."""
        arranged: list[Sent] = []
        together: list[Sent] = []
        last = 0
        for sent in siblings:
            if together and sent.start > last:
                arranged += self._by_content(together)
                together = []
            together.append(sent)
            last = max(last, sent.last)
        return arranged + self._by_content(together)

    def _by_content(self, together: list[Sent]) -> list[Sent]:
        if len(together) < 2:
            return together
        lists = self._take_lists(together)
        rest = [sent for sent in together if sent.method not in _LISTS]
        return self._sorted(lists) + self._sorted(rest)

    @staticmethod
    def _take_lists(together: list[Sent]) -> list[Sent]:
        """Take the lists that were asked for out of all that these led to: for which of them that was, is chance."""
        lists: list[Sent] = []
        stack = [*together]
        while stack:
            sent = stack.pop()
            if sent.method in _LISTS:
                lists.append(sent)
            elif sent.children is not None:
                stack += sent.children
                sent.children = [child for child in sent.children if child.method not in _LISTS]
        return lists

    def _sorted(self, together: list[Sent]) -> list[Sent]:
        contents = {sent: self._content(sent) for sent in together}
        if len(set(contents.values())) == len(together):
            return sorted(together, key=contents.__getitem__)
        return sorted(together, key=lambda sent: (contents[sent], self._digest(sent)))

    def _digest(self, root: Sent) -> bytes:
        digest = sha256()
        stack = [root]
        while stack:
            sent = stack.pop()
            digest.update(self._content(sent) + b"\n")
            stack.extend(reversed(sent.children or ()))
        return digest.digest()

    def _settle(self, ordered: list[Sent]) -> None:
        """Give what may belong to any of several requests to the first of them."""
        if not self._periods:
            return
        places = {sent: place for place, sent in enumerate(ordered)}
        for period, loose in self._periods:
            first = min(period, key=places.__getitem__)
            at = len(first.events) if first.terminal is None else first.terminal
            first.events[at:at] = sorted(loose, key=self._text) if len(period) > 1 else loose
            if first.terminal is not None:
                first.terminal += len(loose)

    def _without_repetitions(self, ordered: list[Sent]) -> list[Sent]:
        """Without the answers that repeat the last one to the same question, which goes on being given anyway.

        How often a list is asked for is chance: the SDK asks by itself, once for each call that finds none.
        """
        answers: dict[tuple[Connection, bytes], list[Sent]] = {}
        for sent in ordered:
            if sent.method in REPEATED and len(sent.events) == 1:
                answers.setdefault((sent.connection, self._text(sent.body)), []).append(sent)
        repeated: set[Sent] = set()
        for same in answers.values():
            while len(same) > 1 and self._text(same[-1].events[0]) == self._text(same[-2].events[0]):
                repeated.add(same.pop())
        return [sent for sent in ordered if sent not in repeated] if repeated else ordered
