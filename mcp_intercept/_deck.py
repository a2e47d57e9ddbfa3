"""`Deck`: what records, replays or compares a cassette, from the beginning of its block to the end.

Above: `Cassette`, which users hold, and `connect()`. Below: `mcp_intercept.recording`, which knows messages and files.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from itertools import chain
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

from mcp_intercept._context import printable
from mcp_intercept._current import Counting, passed_by
from mcp_intercept._handed import handed_to
from mcp_intercept._names import fingerprint, name_of
from mcp_intercept._options import check_choice
from mcp_intercept._sdk import LINE
from mcp_intercept._sdk.reroute import Passing
from mcp_intercept._tape import Writer, continued, noted, played
from mcp_intercept.errors import (
    CassetteDriftError,
    CassetteError,
    CassetteMissError,
    CassetteWarning,
    SessionStateError,
)
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.journal import Journal
from mcp_intercept.recording.looks import NOT_SECRET, judge
from mcp_intercept.recording.matching import Rules
from mcp_intercept.recording.misses import Drift, Miss, Source, report
from mcp_intercept.recording.player import Player
from mcp_intercept.recording.recorder import Recorder
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.store import CassetteFile, check_writable, write_cassette
from mcp_intercept.recording.stored import SideFiles
from mcp_intercept.recording.verifier import Verifier

if TYPE_CHECKING:
    from mcp_intercept._cassette_middleware import CassetteMiddleware

logger = logging.getLogger("mcp_intercept")

Mode: TypeAlias = Literal["none", "once", "new_episodes", "rewrite", "verify", "off"]
"""What a cassette does.

- `"none"`: replays, and refuses what it does not know. Nothing reaches a server.
- `"once"`: replays if the file exists, else records it.
- `"new_episodes"`: replays what it knows, and records the rest; a server is only started for that.
- `"rewrite"`: records all of it again.
- `"verify"`: lets everything pass, compares it with what was recorded, and writes nothing.
- `"off"`: lets everything pass.
"""

Unused: TypeAlias = Literal["ignore", "warn", "fail"]
"""What to do about requests in a cassette that nobody has made."""

PATIENCE: Final = 30.0
MODE_VARIABLE: Final = "MCP_INTERCEPT_CASSETTE_MODE"
"""The environment variable that says what cassettes do that were given no mode. The pytest plugin sets it."""

_PASSED_BY: Final = (
    "a session that was opened before the block has talked to its server; open it inside (in pytest: in a fixture of "
    "function scope), or have a block around it where it is opened"
)

# The files that this process has recorded, by their absolute paths.
_recorded: Final[set[Path]] = set()

_KEPT = (KeyboardInterrupt, SystemExit, GeneratorExit)


def default_mode() -> tuple[Mode, str]:
    """The mode where nobody has asked for one, and why it is that.

    Raises:
        InterceptError: `MCP_INTERCEPT_CASSETTE_MODE` is set to something else.
    """
    asked = os.environ.get(MODE_VARIABLE)
    if asked:
        check_choice(MODE_VARIABLE, asked, get_args(Mode))
        by = f"--mcp-record, mcp_record or {MODE_VARIABLE}" if "pytest" in sys.modules else MODE_VARIABLE
        return cast("Mode", asked), f"as {by} says"
    if os.environ.get("CI", "").lower() not in ("", "0", "false", "no"):
        return "none", "as CI is set"
    return "once", ""


class NotKept(BaseException):
    """Leaves a block whose recording is not worth keeping. Its text says why, as the end of a sentence.

    It is none of those that a note is added to.
    """


class Deck:
    """A cassette that is recorded, replayed or compared."""

    def __init__(
        self,
        path: Path,
        *,
        mode: Mode | None,
        rules: Rules,
        redaction: Redaction | None,
        timing: bool,
        patience: float,
        unused: Unused,
        save_on_failure: bool,
        servers: Mapping[str, str],
    ) -> None:
        self.path: Path = path
        """The file."""
        self.mode: Mode
        """What it does."""
        self.mode, reason = (mode, "") if mode is not None else default_mode()
        if mode is None and self.mode == "rewrite" and path.absolute() in _recorded:
            self.mode = "new_episodes"  # or blocks that share a file would throw away what the others recorded
        self.lost: int = 0
        """How many messages could not be written, once it has ended; the file says so, too."""
        self._patience = patience
        self._unused_option: Unused = unused
        self._save_on_failure = save_on_failure
        self._timing = timing
        self._redactor = Redactor(redaction if redaction is not None else Redaction(defaults=False), learns=True)
        self._servers = servers
        # Names that were given to several.
        self._ambiguous: set[str] = set()
        self._handed: dict[str, dict[str, str]] = {}
        # With what they are the names of: another object may come to have the same id.
        self._names: dict[object, tuple[str, Any]] = {}
        # Sessions that began before, with the number of messages that they had sent.
        self._earlier: dict[Counting, int] = {}
        self._has_middleware = False
        self._recorder: Recorder | None = None
        self._verifier: Verifier | None = None
        self._file: CassetteFile | None = None
        self._is_open = False
        # Whoever has chosen a mode is not told of options that would not change it.
        option = "" if mode is not None else "pytest: --mcp-record=" if "pytest" in sys.modules else f"{MODE_VARIABLE}="
        source = Source(path=path, mode=self.mode, mode_reason=reason, option=option)
        self._player = Player(None, rules, self._redactor, source)

    def __repr__(self) -> str:
        if not self._is_open:
            return f"<Cassette {fspath(self.path)!r}, closed>"
        doing = "recording" if self.is_recording else "replaying" if self._plays else self.mode
        count = 0 if self._recorder is None else self._recorder.count
        new = f" and {count} new messages" if count else ""
        return f"<Cassette {fspath(self.path)!r}, {doing}, {len(self)} interactions{new}>"

    def __len__(self) -> int:
        if self._is_open:
            return 0 if self._file is None else len(self._file)
        if not self.path.is_file():
            return 0
        with closing(CassetteFile(self.path)) as file:
            return len(file)

    @property
    def is_recording(self) -> bool:
        """Whether something is written."""
        return self._recorder is not None

    @property
    def _plays(self) -> bool:
        return self.mode == "none" or (self.mode == "once" and not self.is_recording)

    @property
    def _continues(self) -> bool:
        return self.mode == "new_episodes" and self._file is not None

    def interactions(self) -> list[Interaction]:
        """What the file holds."""
        if self._is_open:
            return [] if self._file is None else list(self._file)
        if not self.path.is_file():
            return []
        with closing(CassetteFile(self.path)) as file:
            return list(file)

    def misses(self) -> tuple[Miss, ...]:
        """What was asked and not known, so far."""
        return tuple(self._player.misses)

    def drifts(self) -> tuple[Drift, ...]:
        """What is not as it was, so far."""
        return tuple(self._player.drifts) + (() if self._verifier is None else tuple(self._verifier.drifts))

    def unused(self) -> tuple[Interaction, ...]:
        """The requests in the file that nobody has made so far."""
        with self._player.lock:
            places = self._player.unused()
            if self._is_open:
                return tuple(map(self._player.load, places))
            if not places or self.mode == "rewrite":
                return ()
            with closing(CassetteFile(self.path)) as file:  # what was added is below
                return tuple(map(file.load, places))

    def transport_named(
        self, transport: AbstractAsyncContextManager[Any], target: Any, name: str | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """A transport, recorded or replayed: of a server of this name, or else of one named after what leads to it."""
        handed = handed_to(transport, target)
        with self._player.lock:  # several threads may open theirs at once
            self._redactor.also(handed)
            if not name:
                name = self._name(target)
                self._note_handed(name, dict(handed))
        return self._transport(transport, name)

    def middleware(self, server: str) -> CassetteMiddleware:
        """What records or replays the calls of a session that exists already, in the name of this server."""
        from mcp_intercept._cassette_middleware import CassetteMiddleware

        self._check_open()
        self._has_middleware = True
        plays = self._plays or self._continues
        return CassetteMiddleware(
            self._player if plays else None, None if self._plays else self._writer(), server, self._patience
        )

    def _check_open(self) -> None:
        if not self._is_open:
            raise SessionStateError(f"{self!r} is not open; use it inside `with use_cassette(...) as cassette:`")

    def _note_handed(self, name: str, handed: Mapping[str, str]) -> None:
        """Note if the same command is run in another environment, which makes another server of it."""
        # What all have from this process makes none, nor do tokens, which are made anew.
        own = {key: value for key, value in handed.items() if os.environ.get(key) != value and judge(key) == NOT_SECRET}
        if self._handed.setdefault(name, own) != own:
            self._ambiguous.add(name)

    def _name(self, target: Any) -> str:
        """The name of a server that nobody has named: another one for each, also if they look the same."""
        key = fingerprint(target)
        if key not in self._names:
            base = name_of(target, self._servers)
            name, number = base, 1
            taken = {given for given, _ in self._names.values()}
            while name in taken:
                self._ambiguous.add(base)
                number += 1
                name = f"{base}-{number}"
            servers = self._player.servers
            if name not in servers and len(servers) == 1 and not self._names:
                [name] = servers  # it can only be this one
            self._names[key] = name, target
        return self._names[key][0]

    def _writer(self) -> Writer | None:
        return self._recorder if self._verifier is None else self._verifier

    @asynccontextmanager
    async def _transport(self, transport: AbstractAsyncContextManager[Any], server: str) -> AsyncGenerator[Any, None]:
        self._check_open()
        writer = self._writer()
        if self._plays:
            async with played(self._player, server, self._patience) as streams:
                # Line 1's streamable HTTP yields a third item: a function that gives the session id.
                yield (*streams, _no_session_id) if _yields_three(transport) else streams
        elif writer is None:
            async with transport as streams:  # which --mcp-block may have something against
                yield streams
        elif self._continues:
            async with continued(self._player, writer, server, Passing(transport), self._patience) as streams:
                yield (*streams, _no_session_id) if _yields_three(transport) else streams
        else:
            async with noted(Passing(transport), writer, server) as streams:
                yield streams

    def open(self) -> None:
        """Begin.

        Raises:
            CassetteFormatError: The file is damaged, or of a later version.
            CassetteLockedError: Somebody else is recording it.
        """
        path, mode = self.path, self.mode
        # Looked at before anything is written: what is damaged is not recorded over.
        exists = mode != "off" and path.exists()
        try:
            self._prepare(path, mode, exists)
        except BaseException:
            if self._file is not None:
                self._file.close()
            if self._recorder is not None:
                self._recorder.journal.discard()
            raise
        self._earlier = passed_by()
        self._is_open = True

    def _prepare(self, path: Path, mode: Mode, exists: bool) -> None:
        if exists:
            self._file = self._player.file = CassetteFile(path)
            if self._file.lost and mode != "rewrite":
                warnings.warn(
                    f"{path} is not complete: {self._file.lost} messages could not be written when it was recorded; "
                    f"record it again with mode='rewrite'",
                    CassetteWarning,
                    stacklevel=4,
                )
        if mode == "verify":
            if not exists:
                raise CassetteError(f"{path} does not exist, so there is nothing to verify; record it first", path=path)
            self._verifier = Verifier(self._player)
        elif mode in ("new_episodes", "rewrite") or (mode == "once" and not exists):
            check_writable(path)
            journal = Journal(path)
            self._recorder = Recorder(journal, self._redactor, mode=mode, timing=self._timing)
            if journal.set_aside is not None:
                aside = journal.set_aside
                warnings.warn(
                    f"an earlier recording of {path} did not come to its end; what it had is in {aside.name}: "
                    f"`mcp-intercept cassette recover {aside} --output ...` makes a cassette of it, else delete it",
                    CassetteWarning,
                    stacklevel=4,
                )

    def close(self, error: BaseException | None) -> None:
        """End, and put the file in its place if something was recorded.

        Args:
            error: What the block is left with.

        Raises:
            CassetteError: It is not as it should be, and `error` is none.
        """
        self._is_open = False
        self._player.has_ended = True
        try:
            if self._recorder is not None:
                self._end_recording(self._recorder, error)
            self._judge(error)
        finally:
            if self._file is not None:
                self._file.close()

    def _end_recording(self, recorder: Recorder, error: BaseException | None) -> None:
        journal = recorder.journal
        recorder.end()
        self.lost = recorder.lost
        for name in self._redactor.without_value if recorder.count else ():
            logger.warning("%s: %s is to be redacted, and has no value here to be looked for", self.path, name)
        if not (recorder.count or self.lost):
            journal.discard()
        elif isinstance(error, _KEPT):
            journal.close()
            logger.warning(
                "the recording of %s was interrupted; `mcp-intercept cassette recover %s` makes a cassette of %s",
                self.path,
                self.path,
                journal.path.name,
            )
        elif error is not None and not self._save_on_failure:
            journal.discard()
            why = error if isinstance(error, NotKept) else f"the block was left with {type(error).__name__}"
            option = " or --mcp-save-on-failure" if isinstance(error, NotKept) else ""
            logger.warning(
                "what was recorded for %s is not kept, as %s; save_on_failure=True%s keeps it", self.path, why, option
            )
        else:
            self._save(recorder)

    def _save(self, recorder: Recorder) -> None:
        journal, path = recorder.journal, self.path
        made = self.lost + recorder.count
        why = "" if recorder.failure is None else f" ({_reason(recorder.failure)})"
        what = "not complete" if self._file is None else "as it was, and what was recorded now is not complete"
        said = [f"{path} is {what}: {self.lost} of {made} messages were not written{why}"] if self.lost else []
        if not recorder.count:
            journal.discard()
        elif self.lost and self._file is not None:
            journal.close()  # what is there, is better
            said.append(f"what was recorded is in {journal.path.name}")
        else:
            try:
                self._write(recorder)
            except Exception as error:
                # Whatever it is, the test that was recorded is not to blame.
                journal.close()
                said.append(
                    f"{path} was not written ({_reason(error)}); "
                    f"what was recorded is in {journal.path.name}: "
                    f"`mcp-intercept cassette recover {path}` makes a cassette of it"
                )
            else:
                journal.discard()
                _recorded.add(path.absolute())
        said += [
            f"{path} has several servers that are called {name!r}, and only the order in which they are opened tells "
            f"them apart; name them: server=, connection_id=, or servers={{name: a part of the command line or URL}}"
            for name in sorted(self._ambiguous)
        ]
        if recorder.assembly.closed:
            logger.warning(
                "%s: the connection ended while %s waited, and so it will when it is replayed",
                path,
                "1 request" if recorder.assembly.closed == 1 else f"{recorder.assembly.closed} requests",
            )
        if said:
            warnings.warn("; ".join(said), CassetteWarning, stacklevel=5)

    def _write(self, recorder: Recorder) -> None:
        side_files = SideFiles(self.path)
        kept = self._file if self.mode == "new_episodes" else None
        old = () if kept is None else (line for place in range(len(kept)) for line in kept.text(place))
        first = 1 if kept is None else kept.last_number + 1
        write_cassette(self.path, chain(old, recorder.assembly.lines(first, side_files)), lost=self.lost)
        side_files.forget(side_files.written | (set() if kept is None else kept.files()))

    def fault(self) -> CassetteError | None:
        """What is wrong so far, whoever has swallowed it: what the block would end with if it ended now."""
        misses, path = self.misses(), self.path
        if misses:
            headline = f"{path} had no answer to {_counted(misses, 'request')}."
            return CassetteMissError(report(headline, misses), path=path, misses=misses)
        if self._player.failures:
            failure = self._player.failures[0]
            said = f"{path} could not be used: {type(failure).__name__}: {printable(str(failure), 1000)}"
            fault = failure if isinstance(failure, CassetteError) else CassetteError(said, path=path)
            fault.__cause__ = failure if fault is not failure else failure.__cause__
            return fault
        if self._verifier is not None and self._verifier.drifts:
            drifts = self._verifier.drifts
            headline = f"{path} is no longer what happens: {_counted(drifts, 'difference')}."
            return CassetteDriftError(report(headline, drifts), path=path, drifts=drifts)
        if self._plays and self._is_passed_by():
            return CassetteError(f"nothing has passed {path}: {_PASSED_BY}", path=path)
        return None

    @property
    def _was_used(self) -> bool:
        return self._player.was_asked or (self._recorder is not None and self._recorder.was_used)

    def _is_passed_by(self) -> bool:
        """Whether only a session was used that began before."""
        if self._was_used or self._has_middleware:
            return False
        return any(count > self._earlier.get(session, count) for session, count in passed_by().items())

    def _judge(self, error: BaseException | None) -> None:
        fault = self.fault()
        if error is not None:
            if fault is not None and isinstance(error, Exception):
                _add_note(error, str(fault))
            return
        if fault is not None:
            raise fault
        if not self._was_used and self.mode != "off":
            is_passed_by = self._is_passed_by()
            said = f"nothing has passed {self.path}: " + (
                _PASSED_BY
                if is_passed_by
                else "open sessions inside the block, with connect(), cassette.transport(...) or everywhere=True"
            )
            if self._recorder is None or self._file is not None or is_passed_by:
                warnings.warn(said, CassetteWarning, stacklevel=4)
            else:
                logger.warning("%s", said)  # there may have been nothing to record
        if self._player.drifts:
            headline = f"{self.path} has answered although arguments have changed:"
            warnings.warn(report(headline, self._player.drifts), CassetteWarning, stacklevel=4)
        self._judge_unused()

    def _judge_unused(self) -> None:
        if self._unused_option == "ignore" or self._file is None or self.mode == "rewrite":
            return
        unused = self.unused()
        if unused:
            said = report(
                f"{self.path} has {_counted(unused, 'request')} that nobody has made; `mcp-intercept cassette prune` "
                f"removes them by number, mode='rewrite' records all again:",
                [f"  #{one.n} {one.title} (server {one.server})" for one in unused],
                most=20,
            )
            if self._unused_option == "fail":
                raise CassetteError(said, path=self.path)
            warnings.warn(said, CassetteWarning, stacklevel=5)


def _reason(error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else None
    # The text of others may show what was said.
    return why or (printable(str(error)) if isinstance(error, CassetteError) else "") or type(error).__name__


def _counted(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _add_note(error: Exception, note: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        logger.error("%s", note)


def _no_session_id() -> None:
    """The session id of a server that is not there."""


def _yields_three(transport: Any) -> bool:
    name = getattr(getattr(transport, "func", None), "__name__", "")
    return LINE == 1 and name in ("streamable_http_client", "streamablehttp_client")
