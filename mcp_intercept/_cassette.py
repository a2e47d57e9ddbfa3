"""`use_cassette()` and `Cassette`: record what passes between sessions and their servers, and replay it without them.

Above: the user and the pytest plugin. Below: `Deck`, which does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from mcp_intercept import _current
from mcp_intercept._current import Led
from mcp_intercept._deck import PATIENCE, Deck, Mode, Unused
from mcp_intercept._names import UNNAMED
from mcp_intercept._options import FunctionT, check_choice, check_seconds, inside
from mcp_intercept._sdk.reroute import reroute
from mcp_intercept._streams import local_streams_of
from mcp_intercept.errors import CassetteError, InterceptError, SessionStateError, UnsupportedTargetError
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.matching import Ignore, Normalize, Order, Rules
from mcp_intercept.recording.misses import Drift, Miss
from mcp_intercept.recording.redaction import Redaction

if TYPE_CHECKING:
    from mcp_intercept._cassette_middleware import CassetteMiddleware

# File systems take 255, and while it is recorded, there are longer ones beside it.
_LONGEST_NAME: Final = 240

_DEFAULTS: Final = Redaction()


class Cassette:
    """What was said to servers, and what they answered. `use_cassette()` makes one."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def __repr__(self) -> str:
        return repr(self._deck)

    def __len__(self) -> int:
        return len(self._deck)

    def __bool__(self) -> bool:
        # It is one, also before anything is in it.
        return True

    @property
    def path(self) -> Path:
        """The file."""
        return self._deck.path

    @property
    def mode(self) -> Mode:
        """What it does."""
        return self._deck.mode

    @property
    def lost(self) -> int:
        """How many messages could not be written, once it has ended; the file says so, too."""
        return self._deck.lost

    @property
    def interactions(self) -> Sequence[Interaction]:
        """What the file holds, read when it is looked at: before it is written what was recorded before, then all."""
        return self._deck.interactions()

    @property
    def is_recording(self) -> bool:
        """Whether something is written."""
        return self._deck.is_recording

    @property
    def misses(self) -> tuple[Miss, ...]:
        """What was asked that it has no answer to, and what the client answered otherwise than then; so far."""
        return self._deck.misses()

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """What is not as it was recorded (`mode="verify"`), or asked with other arguments (`order="tool"`); so far."""
        return self._deck.drifts()

    @property
    def unused(self) -> tuple[Interaction, ...]:
        """The requests in it that nobody has made so far."""
        return self._deck.unused()

    def fault(self) -> CassetteError | None:
        """What is wrong so far, whoever has swallowed it: what the block would end with if it ended now."""
        return self._deck.fault()

    def transport(self, transport: Any, *, server: str | None = None) -> AbstractAsyncContextManager[Any]:
        """A transport, recorded or replayed: for a `ClientSession`, the `Client` of SDK 2.x, or a framework.

        While it replays, `transport` is never entered, so no process is started and no connection opened.

        Args:
            transport: One of the SDK's transports, not entered; or a pair of streams, a server object of this process,
                or a command. What it yields is what this yields.
            server: The name of the server in the cassette; by default one made of `transport`. It ends up in the
                file, so keep secrets out of it.

        Raises:
            UnsupportedTargetError: `transport` is none of these.
            SessionStateError: The cassette is not open.
        """
        streams = local_streams_of(transport)
        if streams is None:
            raise UnsupportedTargetError(
                f"cannot record an object of type {type(transport).__name__}; give a transport such as "
                f"stdio_client(...), a pair of streams, a server object or a command",
                target=transport,
            )
        if server is not None and (not isinstance(server, str) or not server):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterceptError(f"server must be a name, not {server!r}")
        return Led(self._deck.transport_named(streams, transport, server))

    def middleware(self, *, server: str = UNNAMED) -> CassetteMiddleware:
        """A middleware that records or replays the calls of a session that exists already.

        It is for sessions whose streams cannot be had. What it replays are answers and progress: other messages of the
        server need the streams, and its questions are taken to be answered as they were.

        Args:
            server: The name of the server in the cassette.

        Raises:
            SessionStateError: The cassette is not open.
        """
        return self._deck.middleware(server)


class UseCassette:
    """What `use_cassette()` returns: to be opened with `with` (or `async with`), or to decorate a function with."""

    def __init__(self, make: Callable[[], Deck], everywhere: bool) -> None:
        self._make = make
        self._everywhere = everywhere
        self._deck: Deck | None = None
        self._undo: Callable[[], None] | None = None

    def __enter__(self) -> Cassette:
        """Begin to record or replay.

        Raises:
            CassetteFormatError: The file is damaged, or of a later version.
            CassetteLockedError: Somebody else is recording it.
            SessionStateError: It is open already.
        """
        if self._deck is not None:
            raise SessionStateError("this use_cassette() is open already; call use_cassette() for each `with`")
        deck = self._make()
        deck.open()
        self._deck = deck
        _current.enter(deck)
        if self._everywhere and deck.mode != "off":

            def router(transport: AbstractAsyncContextManager[Any]) -> AbstractAsyncContextManager[Any] | None:
                here = _current.current_cassette()
                is_off = isinstance(here, Deck) and here.mode == "off"  # as a block within this one may be
                return None if is_off else deck.transport_named(transport, transport)

            self._undo = reroute(router)
        return Cassette(deck)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End, and put the file in its place if something was recorded.

        Raises:
            CassetteMissError: Something was asked that it has no answer to, whoever has swallowed that.
            CassetteDriftError: A live server does not answer as it did (`mode="verify"`).
            CassetteError: Requests in it were not made (`unused="fail"`).
        """
        deck, self._deck = self._deck, None
        undo, self._undo = self._undo, None
        if deck is not None:
            if undo is not None:
                undo()
            _current.leave(deck)
            deck.close(error)

    async def __aenter__(self) -> Cassette:
        """The same, for those who write `async with`."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The same, for those who write `async with`."""
        self.__exit__(kind, error, traceback)

    def __call__(self, function: FunctionT) -> FunctionT:
        """Use it while `function`, async or not, runs.

        Raises:
            InterceptError: It is a generator, which stops in the middle.
        """
        return inside(lambda: UseCassette(self._make, self._everywhere), "use_cassette(...)", function)


def use_cassette(
    path: str | PathLike[str],
    *,
    mode: Mode | None = None,
    everywhere: bool = False,
    ignore: Ignore = (),
    ignore_results: Ignore = (),
    normalize: Normalize | None = None,
    order: Order = "any",
    redaction: Redaction | None = _DEFAULTS,
    unused: Unused = "ignore",
    timing: bool = False,
    patience: float = PATIENCE,
    save_on_failure: bool = False,
    servers: Mapping[str, str] | None = None,
) -> UseCassette:
    """Record what passes between sessions and their servers into a file, and replay it from there without them.

    `with use_cassette("weather.mcp.jsonl") as cassette:` or `@use_cassette("weather.mcp.jsonl")` over a function,
    async or not. `connect()` joins the cassette by itself; other transports are led through `cassette.transport(...)`,
    or all of them with `everywhere=True`. Something that the cassette has no answer to is refused with a JSON-RPC
    error whose message says why and what to do, and fails the block at its end even if nobody has looked at that.

    Args:
        path: The file, by convention `*.mcp.jsonl`. Large values are in a folder beside it, `*.mcp.files`.
        mode: What it does, see `Mode`; by default `"once"`, and `"none"` where the environment variable `CI` is set.
        everywhere: Whether to record and replay every transport that the process opens, whoever opens it.
        ignore: What does not count of the arguments: names or JSON pointers, of all calls or by tool, prompt or method:
            `["date"]`, `{"forecast": ["/place/lat"], "search": "*"}`. What a report shows can be pasted, too:
            `["/arguments/place/lat"]`.
        ignore_results: The same of results, where these are compared: in mode `"verify"`, and the client's answers.
            Names are those of a result or of its structured content: `["made"]`, `["/result/content/0/text"]`.
        normalize: `(method, params) -> params`, which both sides go through before they are compared.
        order: In what order answers are given, see `Order`: `"any"`, `"tool"` or `"strict"`.
        redaction: What is secret, beside what is known to be; `None` writes everything as it is.
        unused: What to do about requests in the file that were not made: `"ignore"`, `"warn"` or `"fail"`.
        timing: Whether to write down when answers came. It makes each recording a different one.
        patience: Seconds that a client may wait for an answer that it did not wait for when it was recorded.
        save_on_failure: Whether to keep what was recorded if the block is left with an exception.
        servers: Names for servers that are given none where they are opened, each with a part of the command line or
            URL that leads there: `{"weather": "weather/server.py", "travel": "localhost:8001"}`.

    Raises:
        InterceptError: One of the arguments is not what it should be.
    """
    file = _path_of(path)
    if cast("str", mode) == "all":  # as VCR has it
        raise InterceptError("the mode that others call 'all' is 'rewrite' here")
    if mode is not None:
        check_choice("mode", mode, get_args(Mode))
    check_choice("unused", unused, get_args(Unused))
    for option, value in (("everywhere", everywhere), ("timing", timing), ("save_on_failure", save_on_failure)):
        check_choice(option, value, (True, False))
    if redaction is not None and not isinstance(redaction, Redaction):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InterceptError(f"redaction must be a Redaction, or None for none, not {type(redaction).__name__}")
    check_seconds("patience", patience)
    names_of_servers = _names_of_servers({} if servers is None else servers)
    rules = Rules(ignore=ignore, ignore_results=ignore_results, normalize=normalize, order=order)

    def make() -> Deck:
        return Deck(
            file,
            mode=mode,
            rules=rules,
            redaction=redaction,
            timing=timing,
            patience=patience,
            unused=unused,
            save_on_failure=save_on_failure,
            servers=names_of_servers,
        )

    return UseCassette(make, everywhere)


def _names_of_servers(servers: Mapping[Any, Any]) -> Mapping[str, str]:
    if isinstance(servers, Mapping) and all(  # pyright: ignore[reportUnnecessaryIsInstance]
        isinstance(text, str) and text for pair in servers.items() for text in pair
    ):
        return servers
    raise InterceptError(f"servers must be names with parts of command lines or URLs, not {servers!r}")


def _path_of(path: Any) -> Path:
    if not isinstance(path, (str, PathLike)):
        raise InterceptError(f"path must be the path of a file, not an object of type {type(path).__name__}")
    name = os.fsdecode(cast("PathLike[str]", path))
    if not name or "\0" in name or name.endswith(("/", os.sep)):
        raise InterceptError(f"path must be the path of a file, not {name!r}")
    file = Path(name)
    if len(os.fsencode(file.name)) > _LONGEST_NAME:
        raise InterceptError(f"the name of the file must be of {_LONGEST_NAME} bytes at most: {file.name[:60]}...")
    if file.is_dir():
        raise InterceptError(f"{file} is a folder; name a file in it, such as {file / 'test.mcp.jsonl'}")
    return file
