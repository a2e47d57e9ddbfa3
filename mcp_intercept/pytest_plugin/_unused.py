"""`--mcp-unused`: a report, at the end of the run, of what cassettes have that no test needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mcp_intercept.pytest_plugin._files import SUFFIX
from mcp_intercept.pytest_plugin._marks import is_taped
from mcp_intercept.pytest_plugin._options import is_chosen, unused_of


class _Collected(NamedTuple):
    """A test that is to be run."""

    path: str
    nodeid: str
    is_taped: bool


class Unused:
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
        self._tests = [_Collected(os.fspath(item.path), item.nodeid, is_taped(item)) for item in session.items]
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
        if self._lines and unused_of(self._config) == "fail" and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Tell."""
        if self._lines:
            color = {"red" if unused_of(self._config) == "fail" else "yellow": True}
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
            is_chosen(self._config)
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
