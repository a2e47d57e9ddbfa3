"""The pytest plugin: a cassette for each test that is marked `mcp_tape`; `--mcp-record`, `--mcp-block`, `--mcp-unused`.

pytest loads it in every run of everybody who has this package, so nothing of the engine is imported before it is used.
Each decision about a test's cassette is a fixture of its own, which a project may override: `mcp_tape_dir`,
`mcp_tape_name`, `mcp_tape_mode` and `mcp_tape_options`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pytest

from mcp_intercept.pytest_plugin._block import Block
from mcp_intercept.pytest_plugin._files import SUFFIX, default_dir, default_name, path_of
from mcp_intercept.pytest_plugin._marks import check_options, is_taped, marks_of, together
from mcp_intercept.pytest_plugin._options import (
    MODE_VARIABLE,
    MODES,
    UNUSED,
    is_blocking,
    is_chosen,
    mode_of,
    unused_of,
)
from mcp_intercept.pytest_plugin._unused import Unused

if TYPE_CHECKING:
    from mcp_intercept._cassette import Cassette
    from mcp_intercept.errors import CassetteError

_MARKERS: Final = (
    "mcp_tape(name=None, *, mode=None, **options): record what the test says to MCP servers into a cassette, and "
    "replay it from there. `name` is that of the file; with a `/` it is a path from the folder of the module. The "
    "options are those of `mcp_intercept.use_cassette`, and `everywhere` is true.",
    "mcp_live: let the test connect to MCP servers in spite of --mcp-block.",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, and the same in the configuration file."""
    group = parser.getgroup("mcp", "MCP cassettes (mcp-intercept)")
    group.addoption(
        "--mcp-record",
        choices=MODES,
        metavar="MODE",
        help="what cassettes do, instead of what marks and configuration say, and in use_cassette() blocks that give "
        f"no mode: {', '.join(MODES)} (default: once, and none where CI is set)",
    )
    group.addoption(
        "--mcp-save-on-failure",
        action="store_true",
        help="keep also what tests have recorded that have not passed",
    )
    group.addoption(
        "--mcp-block",
        action="store_true",
        help="an MCP connection fails unless a cassette replays or records it, or the test is marked mcp_live",
    )
    group.addoption(
        "--mcp-unused",
        choices=UNUSED,
        metavar="WHAT",
        help="what to do at the end about recorded requests that no test has made, cassettes that no test uses, and "
        f"what interrupted recordings have left: {', '.join(UNUSED)} (default: ignore)",
    )
    parser.addini("mcp_record", "what cassettes do where the test does not say it, as --mcp-record", default="")
    parser.addini("mcp_block", "as --mcp-block", type="bool", default=False)
    parser.addini("mcp_unused", "as --mcp-unused", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known, and do what the options ask for."""
    config.stash[_RECORDED] = set()
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    for option, choices in (("mcp_record", MODES), ("mcp_unused", UNUSED)):
        value = config.getini(option)
        if value and value not in choices:
            raise pytest.UsageError(f"{option} must be one of {', '.join(choices)}, not {value!r}")
    mode = mode_of(config)
    if mode:
        environment = pytest.MonkeyPatch()
        environment.setenv(MODE_VARIABLE, mode)
        config.add_cleanup(environment.undo)
    if is_blocking(config):
        config.pluginmanager.register(Block(), "mcp_block")
    if unused_of(config) != "ignore":
        config.pluginmanager.register(Unused(config), "mcp_unused")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is not as it is by default."""
    mode, unused = mode_of(config), unused_of(config)
    said = [
        *([f"mode {mode}"] if mode else []),
        *(["live connections blocked"] if is_blocking(config) else []),
        *([f"unused: {unused}"] if unused != "ignore" else []),
    ]
    return f"mcp cassettes: {', '.join(said)}" if said else None


_JOINED: Final = (
    "{} is shared with tests that have recorded it before this one in the same run. What they asked was not asked "
    "again: this test was given their answers. If the server keeps a state, give each test a cassette of its own."
)


class _Interrupted(KeyboardInterrupt):
    """Tells a cassette that the run was interrupted, so that it keeps its journal."""


class _Tape:
    """The cassette of a test that is running."""

    def __init__(self, path: Path, is_shared: bool) -> None:
        self.path = path
        self.is_shared = is_shared
        self.cassette: Cassette | None = None
        self.has_joined = False
        """Whether other tests of this run have recorded the file, and this one adds to it."""
        self.size = 0
        """How many interactions the file had before."""
        self.has_begun = False
        self.report: pytest.TestReport | None = None
        """How the test has ended, or why it could not begin."""
        self.had_fault = False
        """Whether something was wrong by then."""
        self.raised: CassetteError | None = None
        self.unused: list[str] | None = None
        """What nobody has asked for, if the test has come to its end."""

    def fault(self) -> CassetteError | None:
        """What is wrong by now, whoever has swallowed it."""
        return None if self.cassette is None else self.cassette.fault()

    def leave(self, cassette: Cassette, config: pytest.Config) -> None:
        """Tell the cassette how the test has ended."""
        from mcp_intercept._deck import NotKept

        if self.report is None and self.has_begun:
            raise _Interrupted
        if self.report is None or not (self.report.passed or self._is_as_known(self.report, cassette)):
            raise NotKept("the test did not pass")
        if self.report.passed and cassette.mode != "rewrite" and unused_of(config) != "ignore":
            self.unused = [f"#{one.n} {one.title}" for one in cassette.unused]

    def _is_as_known(self, report: pytest.TestReport, cassette: Cassette) -> bool:
        """Whether what a test has recorded, or not got since, counts although it has not passed.

        It does if the test has failed as it is marked to, or was marked so wrongly: it ran as it will run again.
        """
        is_as_known = hasattr(report, "wasxfail") or str(report.longrepr).startswith("[XPASS(strict)]")
        return is_as_known and (cassette.is_recording or (cassette.fault() is not None and not self.had_fault))


_TAPE: Final = pytest.StashKey[_Tape]()
_RECORDED: Final = pytest.StashKey[set[Path]]()
"""The cassettes that were recorded in this run, and in this process."""
_NOTES: Final = pytest.StashKey[str]()
"""The folder in which workers of xdist tell each other what they have recorded."""


@pytest.fixture
def mcp_tape_dir(request: pytest.FixtureRequest) -> Path | str:
    """The folder of the test's cassette: `cassettes/<module>` beside the module. Override it to have another one."""
    return default_dir(request.node)


@pytest.fixture
def mcp_tape_name(request: pytest.FixtureRequest) -> str:
    """The name of the test's cassette, without suffix, where its mark gives none: class, function and parameters.

    Override it to have another one; what a file system would not take is replaced.
    """
    return default_name(request.node)


@pytest.fixture
def mcp_tape_options() -> Mapping[str, Any]:
    """Options of `use_cassette()` for all tests, where their marks say nothing else. Override it to have some."""
    return {}


@pytest.fixture
def mcp_tape_mode(request: pytest.FixtureRequest, mcp_tape_options: Mapping[str, Any]) -> str | None:
    """What the test's cassette does: as `--mcp-record` says, else the mark, else `mcp_tape_options`.

    `None` leaves it to `use_cassette()`, which knows of the configuration, too. Override it to decide otherwise.
    """
    asked: str | None = request.config.getoption("mcp_record")
    check_options(mcp_tape_options)
    marked = marks_of(request.node).options.get("mode")
    return asked or marked or mcp_tape_options.get("mode")


@pytest.fixture
def mcp_tape(
    request: pytest.FixtureRequest,
    mcp_tape_dir: Path | str,
    mcp_tape_name: str,
    mcp_tape_mode: str | None,
    mcp_tape_options: Mapping[str, Any],
) -> Generator[Cassette, None, None]:
    """The `Cassette` of the test, which records or replays all its MCP connections; the mark `mcp_tape` opens it, too.

    It is open until the other fixtures of the test have ended. What was recorded is kept if the test has passed, or
    failed as it is marked to (`xfail`); a request that has no answer in it fails the test. Where tests share a
    cassette, the first one that is run records it, and the others add to it.
    """
    from mcp_intercept._cassette import use_cassette
    from mcp_intercept._deck import NotKept, default_mode
    from mcp_intercept.errors import CassetteError, CassetteLockedError

    item: pytest.Item = request.node
    check_options(mcp_tape_options)  # here, too, as `mcp_tape_mode` may be overridden
    marked = marks_of(item)
    path = path_of(item, marked.name, mcp_tape_dir, mcp_tape_name)
    tape = _Tape(path, is_shared=path != default_dir(item) / f"{default_name(item)}{SUFFIX}")
    item.stash[_TAPE] = tape
    asked = mcp_tape_mode or default_mode()[0]
    tape.has_joined = asked in ("once", "rewrite") and _was_recorded(path, request.config)
    keeping = {"save_on_failure": True} if request.config.getoption("mcp_save_on_failure") else {}
    options = together(together({"everywhere": True}, mcp_tape_options), marked.options)
    options |= {"mode": "new_episodes" if tape.has_joined else mcp_tape_mode, **keeping}
    before = _stamp(path)
    with suppress(NotKept, _Interrupted), ExitStack() as stack:
        try:
            cassette = stack.enter_context(use_cassette(path, **options))
        except CassetteError as error:
            is_shared = isinstance(error, CassetteLockedError) and hasattr(request.config, "workerinput")
            way_out = "; or run without pytest-xdist, or with its --dist=loadfile" if is_shared else ""
            # It comes from no line of the test.
            pytest.fail(f"{type(error).__name__}: {error}{way_out}", pytrace=False)
        tape.cassette, tape.size = cassette, len(cassette)
        yield cassette
        tape.leave(cassette, request.config)
    if _stamp(path) != before:
        _note_recorded(path, request.config)
        if tape.is_shared and is_chosen(request.config):
            _warn_of_what_is_gone(item, tape)


def _was_recorded(path: Path, config: pytest.Config) -> bool:
    """Whether a file was recorded in this run, here or by another worker of xdist."""
    note = _note_of(path, config)
    return path in config.stash[_RECORDED] or (note is not None and note.exists())


def _note_recorded(path: Path, config: pytest.Config) -> None:
    config.stash[_RECORDED].add(path)
    note = _note_of(path, config)
    if note is not None:
        with suppress(OSError):  # a worker on another machine, which has files of its own
            note.touch()


def _note_of(path: Path, config: pytest.Config) -> Path | None:
    """The file that tells other workers of xdist of a cassette that was recorded."""
    folder: str | None = getattr(config, "workerinput", {}).get("mcp_recorded")
    return None if folder is None else Path(folder, sha256(os.fsencode(path)).hexdigest())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of xdist the folder in which they tell each other what they have recorded."""
    config: pytest.Config = node.config
    if _NOTES not in config.stash:
        folder = TemporaryDirectory(prefix="mcp-intercept-")
        config.add_cleanup(folder.cleanup)
        config.stash[_NOTES] = folder.name
    node.workerinput["mcp_recorded"] = config.stash[_NOTES]


def _warn_of_what_is_gone(item: pytest.Item, tape: _Tape) -> None:
    from mcp_intercept.errors import CassetteWarning

    gone = 0 if tape.cassette is None else tape.size - len(tape.cassette.interactions)
    if gone > 0:
        said = (
            f"{tape.path} was recorded again and has {gone} fewer interactions, which tests that this run leaves out "
            f"may need; --mcp-record=rewrite with all tests that share it records them, too"
        )
        item.warn(CassetteWarning(said))


def _stamp(path: Path) -> object:
    """What is another one once a cassette was written: that puts another file into its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


@pytest.fixture(autouse=True)
def _mcp_tape_marked(request: pytest.FixtureRequest) -> None:  # pyright: ignore[reportUnusedFunction] - pytest uses it
    # Before other fixtures of the test, which may connect.
    if is_taped(request.node):
        request.getfixturevalue("mcp_tape")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that has got no answer to something, even if it has swallowed that."""
    tape = item.stash.get(_TAPE, None)
    if tape is None:
        return (yield)
    tape.has_begun = True
    result = yield
    tape.raised = tape.fault()
    if tape.raised is not None:
        raise tape.raised
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how a test has ended, after other plugins have had their say, and why it may have failed."""
    report = yield
    tape = item.stash.get(_TAPE, None)
    if tape is None:
        return report
    fault = tape.fault()
    is_told = report.when == "teardown" and tape.had_fault
    is_hidden = fault is not None and not is_told and _hides(report) and not _is_marked_for(item, fault)
    if is_hidden:
        # Nobody can tell whether what the test is marked for still happens, or would with an answer.
        vars(report).pop("wasxfail", None)
        report.outcome, report.longrepr = "failed", str(fault)
    if report.when == "teardown":
        # In the report it also reaches those who only see that, as the one who started the workers of xdist.
        vars(report)["mcp_tape"] = {"path": str(tape.path), "is_shared": tape.is_shared, "unused": tape.unused}
        del item.stash[_TAPE]
        return report
    if report.when == "call" or not report.passed:
        tape.report, tape.had_fault = report, fault is not None
    if report.failed and not is_hidden:
        if call.excinfo is not None and call.excinfo.value is tape.raised:
            # It comes from no line of the test.
            report.longrepr = call.excinfo.getrepr(style="value")
        elif fault is not None:
            report.sections.append(("MCP cassette", str(fault)))
        if tape.has_joined:
            report.sections.append(("MCP cassette", _JOINED.format(tape.path)))
    return report


def _hides(report: pytest.TestReport) -> bool:
    """Whether what was wrong is not seen, as the test is skipped or known to fail."""
    return report.skipped or hasattr(report, "wasxfail")


def _is_marked_for(item: pytest.Item, fault: CassetteError) -> bool:
    """Whether a test is marked to fail of this very thing: `raises=Exception` says nothing of cassettes."""
    from mcp_intercept.errors import CassetteError

    named: list[Any] = []
    for marker in item.iter_markers("xfail"):
        raises = marker.kwargs.get("raises")
        named += raises if isinstance(raises, tuple) else [raises]
    return any(kind in named for kind in type(fault).__mro__ if issubclass(kind, CassetteError))
