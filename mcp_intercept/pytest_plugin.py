"""The pytest plugin: a cassette for each test that is marked `mcp_tape`; `--mcp-record`, `--mcp-block`, `--mcp-unused`.

pytest loads it in every run of everybody who has this package, so nothing of the engine is imported before it is used.
Each decision about a test's cassette is a fixture of its own, which a project may override: `mcp_tape_dir`,
`mcp_tape_name`, `mcp_tape_mode` and `mcp_tape_options`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from hashlib import sha256
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from mcp_intercept._cassette import Cassette
    from mcp_intercept.errors import CassetteError

SUFFIX: Final = ".mcp.jsonl"
MODES: Final = ("none", "once", "new_episodes", "rewrite", "verify", "off")
"""Those of `use_cassette()`, which is not imported for `--help`."""
UNUSED: Final = ("ignore", "warn", "fail")

_MODE_VARIABLE: Final = "MCP_INTERCEPT_CASSETTE_MODE"
"""What `use_cassette()` looks at where it is given no mode."""
_LONGEST: Final = 100
"""Characters of a file's name, the suffix not counted: file systems take 255 bytes, and there are files beside it."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.,=+@-]+")
# Windows takes these for devices, whatever stands behind the dot.
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\.|$)", re.IGNORECASE)

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
    mode = _mode_of(config)
    if mode:
        environment = pytest.MonkeyPatch()
        environment.setenv(_MODE_VARIABLE, mode)
        config.add_cleanup(environment.undo)
    if _is_blocking(config):
        config.pluginmanager.register(_Block(), "mcp_block")
    if _unused_of(config) != "ignore":
        config.pluginmanager.register(_Unused(config), "mcp_unused")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is not as it is by default."""
    mode, unused = _mode_of(config), _unused_of(config)
    said = [
        *([f"mode {mode}"] if mode else []),
        *(["live connections blocked"] if _is_blocking(config) else []),
        *([f"unused: {unused}"] if unused != "ignore" else []),
    ]
    return f"mcp cassettes: {', '.join(said)}" if said else None


def _mode_of(config: pytest.Config) -> str:
    return str(config.getoption("mcp_record") or os.environ.get(_MODE_VARIABLE) or config.getini("mcp_record"))


def _is_blocking(config: pytest.Config) -> bool:
    return bool(config.getoption("mcp_block") or config.getini("mcp_block"))


def _unused_of(config: pytest.Config) -> str:
    return str(config.getoption("mcp_unused") or config.getini("mcp_unused") or "ignore")


class _Marked(NamedTuple):
    """What the markers of a test say together, of which the closest wins."""

    name: str | os.PathLike[str] | None
    options: dict[str, Any]


def _marked(item: pytest.Item) -> _Marked:
    marked = _Marked(None, {})
    for marker in reversed(list(item.iter_markers("mcp_tape"))):
        named = (*marker.args, *([marker.kwargs["name"]] if "name" in marker.kwargs else []))
        _check(marker, named)
        options = {option: value for option, value in marker.kwargs.items() if option != "name"}
        marked = _Marked(named[0] if named else marked.name, _together(marked.options, options))
    return marked


def _check(marker: pytest.Mark, named: tuple[Any, ...]) -> None:
    from mcp_intercept._cassette import use_cassette
    from mcp_intercept.errors import InterceptError

    if len(named) > 1 or not all(map(_is_name, named)):
        raise InterceptError(f"mcp_tape takes the name of a cassette and named options, not {named!r}")
    known = [option for option in signature(use_cassette).parameters if option != "path"]
    for option in marker.kwargs:
        if option not in ("name", *known):
            raise InterceptError(f"mcp_tape has no option {option!r}; it has name and {', '.join(known)}")


def _is_name(name: Any) -> bool:
    return isinstance(name, (str, os.PathLike)) and bool(os.fspath(name))  # pyright: ignore[reportUnknownArgumentType]


def _together(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Options, of which the inner ones win; what is secret by the outer ones stays so, unless nothing is."""
    from mcp_intercept.recording import Redaction

    together = {**outer, **inner}
    both = [options.get("redaction") for options in (outer, inner)]
    if all(isinstance(redaction, Redaction) for redaction in both):  # what else it may be, is judged where it is used
        together["redaction"] = both[0] | both[1]
    return together


def safe_name(text: str, *, is_unique: bool = True) -> str:
    """A name for a file, on every file system, in no other folder than is meant.

    Args:
        text: What to name it after. What is safe already stays as it is.
        is_unique: Whether no other name is equal to it but for upper and lower case.
    """
    name = _UNSAFE.sub("_", text).lstrip(".")
    if name == text and is_unique and 0 < len(name) <= _LONGEST and not _DEVICE.match(name):
        return name
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = name[: _LONGEST - len(digest) - 2].rstrip("_-")
    return f"_{kept}-{digest}" if _DEVICE.match(kept) or not kept else f"{kept}-{digest}"


def _default_name(item: pytest.Item) -> str:
    base, bracket, parameters = item.name.partition("[")
    chain = [node for node in item.listchain() if isinstance(node, pytest.Class)]
    title = ".".join([*(node.name for node in chain), base])
    if bracket:
        title = f"{title}-{parameters.removesuffix(']')}"
    twins = any(_has_twin(node, name) for node, name in [*((node, node.name) for node in chain), (item, base)])
    return safe_name(title, is_unique=parameters == parameters.lower() and not twins)


def _has_twin(node: Any, name: str) -> bool:
    # By what the module has, not by what was collected, which is another thing for each command line.
    siblings = dir(getattr(node.parent, "obj", None))
    return any(other != name and other.lower() == name.lower() for other in siblings)


def _default_dir(item: pytest.Item) -> Path:
    return item.path.parent / "cassettes" / item.path.stem


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
        if self.report.passed and cassette.mode != "rewrite" and _unused_of(config) != "ignore":
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
    return _default_dir(request.node)


@pytest.fixture
def mcp_tape_name(request: pytest.FixtureRequest) -> str:
    """The name of the test's cassette, without suffix, where its mark gives none: class, function and parameters.

    Override it to have another one; what a file system would not take is replaced.
    """
    return _default_name(request.node)


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
    marked = _marked(request.node).options.get("mode")
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
    marked = _marked(item)
    path = _path_of(item, marked.name, mcp_tape_dir, mcp_tape_name)
    tape = _Tape(path, is_shared=path != _default_dir(item) / f"{_default_name(item)}{SUFFIX}")
    item.stash[_TAPE] = tape
    asked = mcp_tape_mode or default_mode()[0]
    tape.has_joined = asked in ("once", "rewrite") and _was_recorded(path, request.config)
    keeping = {"save_on_failure": True} if request.config.getoption("mcp_save_on_failure") else {}
    options = _together(_together({"everywhere": True}, mcp_tape_options), marked.options)
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
        if tape.is_shared and _is_chosen(request.config):
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


def _path_of(item: pytest.Item, marked: str | os.PathLike[str] | None, folder: Path | str, name: str) -> Path:
    given = name if marked is None else os.fspath(marked)
    is_path = isinstance(marked, os.PathLike) or "/" in given or os.sep in given or given.endswith(SUFFIX)
    if marked is not None and is_path:
        path = item.path.parent / f"{given.removesuffix(SUFFIX)}{SUFFIX}"
    else:
        # What a project's fixture gives is often made of the test's name, which may have anything in it.
        path = item.path.parent / folder / f"{safe_name(given)}{SUFFIX}"
    return Path(os.path.abspath(path))


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
    if _is_taped(request.node):
        request.getfixturevalue("mcp_tape")


def _is_taped(item: pytest.Item) -> bool:
    return "mcp_tape" in getattr(item, "fixturenames", ()) or item.get_closest_marker("mcp_tape") is not None


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


class _Block:
    """Refuses live connections while tests run."""

    def __init__(self) -> None:
        self._is_live = False
        self._is_taped = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Have every transport led through here."""
        from mcp_intercept._sdk.reroute import reroute

        undo = reroute(self._check)
        try:
            return (yield)
        finally:
            undo()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Let tests pass that are marked so."""
        self._is_live = item.get_closest_marker("mcp_live") is not None
        self._is_taped = item.get_closest_marker("mcp_tape") is not None
        try:
            return (yield)
        finally:
            self._is_live = False

    def _check(self, transport: Any) -> None:
        from mcp_intercept._current import current_cassette
        from mcp_intercept._names import name_of
        from mcp_intercept._sdk.reroute import InProcess
        from mcp_intercept.errors import InterceptError

        __tracebackhide__ = True
        opened = getattr(getattr(transport, "func", None), "__name__", "")
        if self._is_live or isinstance(transport, InProcess) or opened == "create_client_server_memory_streams":
            return
        cassette = current_cassette()
        if getattr(cassette, "mode", None) == "off":
            way_out = "give its cassette a mode other than 'off'"
        elif cassette is not None:
            way_out = f"lead it through {cassette!r} with its transport(...) or everywhere=True"
        elif self._is_taped:
            way_out = (
                "open it in a fixture of function scope: one of a wider scope opens it before the test has its tape"
            )
        else:
            way_out = "record it and replay it with @pytest.mark.mcp_tape"
        raise InterceptError(
            f"--mcp-block allows no live connection, and {opened}() opens one to {name_of(transport)!r}; "
            f"{way_out}, or let it pass with @pytest.mark.mcp_live"
        )


def _is_chosen(config: pytest.Config) -> bool:
    """Whether the command line asks for some of the tests in its files."""
    chosen = [getattr(config.option, name, None) for name in ("keyword", "markexpr", "lf", "deselect", "collectonly")]
    return any(chosen) or any("::" in arg for arg in config.args)


class _Collected(NamedTuple):
    """A test that is to be run."""

    path: str
    nodeid: str
    is_taped: bool


class _Unused:
    """Tells at the end what cassettes have that no test needs."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._collected = 0
        self._tests: list[_Collected] = []
        self._has_crashed = False
        self._tested: set[str] = set()
        self._used: set[Path] = set()
        # Of each file, what all of the tests that use it have left over.
        self._left: dict[Path, list[str]] = {}
        self._unknown: set[Path] = set()
        self._shared: set[Path] = set()
        self._lines: list[str] = []

    def pytest_itemcollected(self) -> None:
        """Count what is there before anybody leaves something out."""
        self._collected += 1

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is to be run; a worker of xdist tells it to who started it, who collects nothing."""
        self._tests = [_Collected(os.fspath(item.path), item.nodeid, _is_taped(item)) for item in session.items]
        output: dict[str, Any] | None = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["mcp_collected"] = self._collected, [tuple(test) for test in self._tests]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of xdist was to run, which is the same for all; one that has crashed does not tell it."""
        output: dict[str, Any] = getattr(node, "workeroutput", {})
        if "mcp_collected" in output:
            self._collected, tests = output["mcp_collected"]
            self._tests = [_Collected(*test) for test in tests]
        else:
            self._has_crashed = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what a test has used."""
        used: dict[str, Any] | None = vars(report).get("mcp_tape")
        if used is None:
            return
        path = Path(used["path"])
        self._tested.add(report.nodeid)
        self._used.add(path)
        if used["is_shared"]:
            self._shared.add(path)
        unused: list[str] | None = used["unused"]
        if unused is None:
            self._unknown.add(path)
        else:
            self._left[path] = [one for one in self._left.get(path, unused) if one in unused]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge."""
        is_partial = self._is_partial(session)
        for path, left in sorted(self._left.items()):
            # Other tests that use the same file may not have run.
            if left and path not in self._unknown and not (is_partial and path in self._shared):
                more = f" and {len(left) - 5} more" if len(left) > 5 else ""
                self._lines.append(f"{self._shown(path)}: no test asks for {', '.join(left[:5])}{more}")
        if not is_partial:
            self._lines += self._spare()
        if self._lines and _unused_of(self._config) == "fail" and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell."""
        if self._lines:
            color = {"red" if _unused_of(self._config) == "fail" else "yellow": True}
            terminalreporter.write_sep("=", "MCP cassettes: unused", **color)
            for line in self._lines:
                terminalreporter.write_line(line)
            terminalreporter.write_line(
                "`mcp-intercept cassette prune` removes requests, --mcp-record=rewrite records them again; "
                "files that no test uses can be deleted"
            )

    def _shown(self, path: Path) -> str:
        return os.path.relpath(path, self._config.invocation_params.dir)

    def _is_partial(self, session: pytest.Session) -> bool:
        """Whether there are, or may be, tests that have not run."""
        return (
            _is_chosen(self._config)
            or self._has_crashed
            or len(self._tests) != self._collected
            or bool(session.shouldstop or session.shouldfail)
            or session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        )

    def _spare(self) -> Iterator[str]:
        """What is in folders of ours for nothing: no test has used it, or it is of an interrupted recording."""
        for folder in self._folders():
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                if path not in self._used:
                    yield f"{self._shown(path)}: no test uses it"
            for path in sorted(folder.glob(f"*{SUFFIX}.part*")):
                yield f"{self._shown(path)}: of an interrupted recording; `mcp-intercept cassette recover` saves it"

    def _folders(self) -> Iterator[Path]:
        """The folders for the cassettes of modules that were run, or are gone."""
        modules = {Path(test.path) for test in self._tests}
        # Where a test is skipped, nobody knows what it would have used.
        undecided = {Path(test.path) for test in self._tests if test.is_taped and test.nodeid not in self._tested}
        here = self._config.invocation_params.dir
        whole = [Path(os.path.abspath(here / arg)) for arg in self._config.args]
        for folder in sorted({module.parent for module in modules}):
            is_whole = any(folder.is_relative_to(other) for other in whole)
            for tapes in sorted((folder / "cassettes").glob("*")):
                module = folder / f"{tapes.name}.py"
                if is_whole if not module.exists() else module in modules - undecided:
                    yield tapes
