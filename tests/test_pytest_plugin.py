"""The pytest plugin, in projects of users: each test here is one or a few runs of pytest in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_intercept._deck import Mode, Unused
from mcp_intercept.pytest_plugin._files import safe_name
from mcp_intercept.pytest_plugin._options import MODES, UNUSED
from mcp_intercept.recording.journal import Journal
from tests.server import ROOT
from tests.wire import LINE_1

# A server of the process, which notes who has really asked it; and one that is none, with its transport.
AGENT = """
import os
import sys

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from mcp_intercept import connect
from mcp_intercept._demo.server import Server

server = Server("weather")

@server.tool()
def forecast(city: str) -> str:
    with open("live.log", "a") as log:
        log.write(city + "\\n")
    return f"{city}: {os.environ.get('WEATHER', 'snow')}"

async def ask_async(city):
    async with connect(server) as session:
        result = await session.call_tool("forecast", {"city": city})
        return result.content[0].text

def ask(city="Oslo"):
    return anyio.run(ask_async, os.environ.get("CITY", city))

def swallow(city="Oslo"):
    try:
        ask(city)
    except Exception:
        pass

async def ask_elsewhere():
    command = os.environ.get("COMMAND", sys.executable)
    parameters = StdioServerParameters(command=command, args=["-m", "mcp_intercept", "demo-server"])
    async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
        await session.initialize()
        result = await session.call_tool("forecast", {"city": "Oslo"})
        return result.content[0].text
"""
NOT_PASSED_ON = ("CI", "MCP_INTERCEPT_CASSETTE_MODE", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")
HEAD = "import anyio, os, pytest, unittest\n"


class Run(NamedTuple):
    """What a run of pytest has come to."""

    status: int
    text: str

    @property
    def outcomes(self) -> dict[str, list[str]]:
        """How each test has ended, by its name without the module."""
        outcomes: dict[str, list[str]] = {}
        said = r"^(PASSED|FAILED|ERROR|XFAIL|XPASS)(?: at \w+ of)? \S+?\.py::(\S+)"
        for outcome, name in re.findall(said, self.text, re.MULTILINE):
            outcomes.setdefault(outcome, []).append(name)
        return {outcome: sorted(names) for outcome, names in outcomes.items()}

    def about(self, name: str) -> str:
        """What is told of a test that has failed."""
        found = re.search(
            rf"^_+ {re.escape(name)} _+$(.*?)(?=^_+ [^_].*[^_] _+$|^=)", self.text, re.MULTILINE | re.DOTALL
        )
        assert found is not None, self.text
        return found[1]

    @property
    def unused(self) -> list[str]:
        """What is told of what no test needs, without the way out."""
        _, _, rest = self.text.partition("MCP cassettes: unused")
        return [line for line in rest.partition("\n===")[0].splitlines()[1:] if not line.startswith("`mcp-intercept")]


class Project:
    """A folder with tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("agent.py", AGENT)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.match("test_*.py"):
            agent = "from agent import *\n" if "ask" in text or "swallow" in text else ""
            text = f"{HEAD}{agent}{text}"
        path.write_text(text, encoding="utf-8")

    def run(self, *options: str, **environment: str) -> Run:
        """Run pytest with this plugin and no others, so that it makes no difference what is installed."""
        plugins = ("-p", "anyio", "-p", "mcp_intercept.pytest_plugin")
        return self.run_installed(*plugins, *options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **environment)

    def run_installed(self, *options: str, **environment: str) -> Run:
        """Run pytest with the plugins that are installed."""
        outside = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        # As here: from the checkout, also where the package is installed.
        outside["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [outside.get("PYTHONPATH")])])
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *options],
            cwd=self.root,
            env={**outside, "PYTHONIOENCODING": "utf-8", "COLUMNS": "300", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        return Run(process.returncode, process.stdout)

    @property
    def cassettes(self) -> list[str]:
        """The files that recording has left."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob("**/*.mcp.jsonl*"))

    def asked_live(self) -> list[str]:
        """Which cities the server was asked for since this was last looked at."""
        log = self.root / "live.log"
        if not log.exists():
            return []
        cities = log.read_text(encoding="utf-8").split()
        log.unlink()
        return cities


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# What a mark does.


def test_what_a_framework_opens_is_recorded_and_then_replayed_without_a_server(project: Project) -> None:
    project.write(
        "tests/test_it.py",
        """
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.mcp_tape
async def test_marked(anyio_backend):
    assert await ask_elsewhere() == "Oslo: light snow, -3 °C"

@pytest.mark.mcp_tape("elsewhere")
def test_with_a_loop_of_its_own(mcp_tape):
    assert mcp_tape.is_recording == ("COMMAND" not in os.environ)
    assert "Oslo" in anyio.run(ask_elsewhere)
""",
    )
    options = ["-o", "pythonpath=."]
    assert project.run(*options).outcomes == {"PASSED": ["test_marked[asyncio]", "test_with_a_loop_of_its_own"]}
    assert project.cassettes == [
        "tests/cassettes/test_it/elsewhere.mcp.jsonl",
        "tests/cassettes/test_it/test_marked-asyncio.mcp.jsonl",
    ]
    again = project.run(*options, "--mcp-block", COMMAND="/nowhere/python")
    assert again.outcomes == {"PASSED": ["test_marked[asyncio]", "test_with_a_loop_of_its_own"]}


def test_a_fixture_that_connects_is_recorded_from_its_beginning_to_its_end(project: Project) -> None:
    project.write(
        "test_it.py",
        """
@pytest.fixture
def weather():
    before = ask("Oslo")
    yield before
    ask("Bergen")

@pytest.mark.mcp_tape
def test_marked(weather):
    assert weather == "Oslo: snow"

def test_asked_for(weather, mcp_tape):
    assert weather == "Oslo: snow"

def test_neither(weather):
    assert weather == "Oslo: snow"
""",
    )
    assert project.run().status == 0
    assert project.asked_live() == ["Oslo", "Bergen"] * 3
    assert project.run("-k", "not neither").status == 0
    assert project.asked_live() == []


def test_each_test_has_a_file_of_its_own_that_is_safe_everywhere(project: Project) -> None:
    project.write(
        "test_it.py",
        r"""
pytestmark = pytest.mark.mcp_tape

class TestC:
    def test_x(self):
        assert ask("C") == "C: snow"

class TestD:
    def test_x(self):
        assert ask("D") == "D: snow"

    class TestInner:
        def test_x(self):
            assert ask("Inner") == "Inner: snow"

class TestCase(unittest.TestCase):
    def test_x(self):
        self.assertEqual(ask("Case"), "Case: snow")

def test_X():
    assert ask("upper") == "upper: snow"

def test_x():
    assert ask("lower") == "lower: snow"

VALUES = ["a", "A", "a b", "a/b", "../../../out", "..", "", "nul\0", "n" * 300, "n" * 301, "ø", "[", "a]", "C:\\x"]

@pytest.mark.parametrize("number", range(len(VALUES)), ids=VALUES)
def test_of(number):
    assert ask(f"n{number}") == f"n{number}: snow"
""",
    )
    first = project.run()
    assert first.status == 0, first.text
    assert "20 passed" in first.text
    files = project.cassettes
    assert len({name.lower() for name in files}) == 20
    assert [
        name for name in files if not re.fullmatch(r"cassettes/test_it/[A-Za-z0-9_.,=+@-]{1,100}\.mcp\.jsonl", name)
    ] == []
    names = [name.removeprefix("cassettes/test_it/").removesuffix(".mcp.jsonl") for name in files]
    assert {"TestC.test_x", "TestD.test_x", "TestD.TestInner.test_x", "TestCase.test_x", "test_of-a"} <= set(names)
    assert not {"test_x", "test_X"} & set(names)
    project.asked_live()
    assert "20 passed" in project.run("--mcp-record=none").text
    assert project.asked_live() == []


def test_the_closest_mark_wins_and_options_come_together(project: Project) -> None:
    project.write(
        "sub/test_it.py",
        """
from pathlib import Path

pytestmark = pytest.mark.mcp_tape(mode="new_episodes", ignore=["city"])

def name(tape):
    return tape.path.relative_to(Path(__file__).parent).as_posix()

def test_of_the_module(mcp_tape):
    assert (mcp_tape.mode, name(mcp_tape)) == ("new_episodes", "cassettes/test_it/test_of_the_module.mcp.jsonl")
    ask("Oslo")

@pytest.mark.mcp_tape("same")
class TestClass:
    def test_of_the_class(self, mcp_tape):
        assert (mcp_tape.mode, name(mcp_tape)) == ("new_episodes", "cassettes/test_it/same.mcp.jsonl")

    @pytest.mark.mcp_tape(mode="once")
    def test_of_the_function(self, mcp_tape):
        assert (mcp_tape.mode, name(mcp_tape)) == ("once", "cassettes/test_it/same.mcp.jsonl")

@pytest.mark.mcp_tape("tapes/there")
def test_path(mcp_tape):
    assert name(mcp_tape) == "tapes/there.mcp.jsonl"

@pytest.mark.mcp_tape(Path("here.mcp.jsonl"))
def test_path_object(mcp_tape):
    assert name(mcp_tape) == "here.mcp.jsonl"

@pytest.mark.mcp_tape("../up.mcp.jsonl")
def test_path_upwards(mcp_tape):
    assert mcp_tape.path == Path(__file__).parent.parent / "up.mcp.jsonl"

@pytest.mark.mcp_tape("con")
def test_device(mcp_tape):
    assert mcp_tape.path.name.startswith("_con-")

@pytest.mark.mcp_tape("one", "two")
def test_two_names():
    pass

@pytest.mark.mcp_tape(1)
def test_number():
    pass

@pytest.mark.mcp_tape("")
def test_empty():
    pass

@pytest.mark.mcp_tape("one", name="two")
def test_named_twice():
    pass

@pytest.mark.mcp_tape(name="named")
def test_named(mcp_tape):
    assert (mcp_tape.mode, name(mcp_tape)) == ("new_episodes", "cassettes/test_it/named.mcp.jsonl")

@pytest.mark.mcp_tape(record_mode="once")
def test_unknown_option():
    pass

@pytest.mark.mcp_tape(mode="always")
def test_unknown_mode():
    pass
""",
    )
    options = ["-o", "pythonpath=.", "--strict-markers"]
    run = project.run(*options)
    assert [name.removeprefix("test_") for name in run.outcomes["ERROR"]] == [
        *("empty", "named_twice", "number", "two_names", "unknown_mode", "unknown_option")
    ]
    assert len(run.outcomes["PASSED"]) == 8
    assert "mcp_tape has no option 'record_mode'; it has name and mode, everywhere, ignore, " in run.text
    assert "mcp_tape takes the name of a cassette and named options, not ('one', 'two')" in run.text
    assert "mode must be" in run.text
    # What is ignored is ignored, though another mark says something else.
    assert project.run(*options, "-k", "module", CITY="Bergen").status == 0
    assert project.asked_live() == ["Oslo"]


def test_the_option_wins_over_the_mark_and_that_over_the_configuration(project: Project) -> None:
    project.write(
        "test_it.py",
        """
def test_plain(mcp_tape):
    print("plain is", mcp_tape.mode)

@pytest.mark.mcp_tape(mode="new_episodes")
def test_marked(mcp_tape):
    print("marked is", mcp_tape.mode)
""",
    )

    def modes(*options: str, **environment: str) -> tuple[list[str], list[str]]:
        run = project.run("-s", *options, **environment)
        return re.findall(r"(?:plain|marked) is \w+", run.text), re.findall(
            r"^mcp cassettes: .*", run.text, re.MULTILINE
        )

    assert modes() == (["plain is once", "marked is new_episodes"], [])
    assert modes(CI="true") == (["plain is none", "marked is new_episodes"], [])
    assert modes("-o", "mcp_record=off", "-o", "mcp_block=true", CI="true") == (
        ["plain is off", "marked is new_episodes"],
        ["mcp cassettes: mode off, live connections blocked"],
    )
    assert modes("--mcp-record=rewrite", "-o", "mcp_record=off", "-o", "mcp_unused=warn") == (
        ["plain is rewrite", "marked is rewrite"],
        ["mcp cassettes: mode rewrite, unused: warn"],
    )
    said = ["mcp cassettes: mode off"]
    assert modes(MCP_INTERCEPT_CASSETTE_MODE="off") == (["plain is off", "marked is new_episodes"], said)
    assert modes("-o", "mcp_record=once", MCP_INTERCEPT_CASSETTE_MODE="off") == (
        ["plain is off", "marked is new_episodes"],
        said,
    )


def test_the_option_counts_for_blocks_that_give_no_mode(project: Project) -> None:
    project.write(
        "conftest.py",
        """
import os

import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.add_cleanup(lambda: print("in the end:", os.environ.get("MCP_INTERCEPT_CASSETTE_MODE")))
""",
    )
    project.write(
        "test_it.py",
        """
from mcp_intercept import use_cassette

def test_block():
    with use_cassette("plain.mcp.jsonl") as plain:
        ask("Oslo")
    with use_cassette("given.mcp.jsonl", mode="once") as given:
        ask("Bergen")
    print("modes are", plain.mode, given.mode)
""",
    )

    def modes(*options: str, **environment: str) -> tuple[list[str], list[str]]:
        run = project.run("-s", *options, **environment)
        assert run.status == 0, run.text
        return re.findall(r"(?:modes are|in the end:) (.*)", run.text), project.asked_live()

    assert modes() == (["once once", "None"], ["Oslo", "Bergen"])
    assert modes() == (["once once", "None"], [])
    assert modes("--mcp-record=rewrite", CI="true") == (["rewrite once", "None"], ["Oslo"])
    assert modes("-o", "mcp_record=off", CI="true") == (["off once", "None"], ["Oslo"])
    assert modes("--mcp-record=off", MCP_INTERCEPT_CASSETTE_MODE="none") == (["off once", "none"], ["Oslo"])
    run = project.run("-o", "mcp_record=none", CITY="Rome")
    assert "mode 'none', as --mcp-record, mcp_record or MCP_INTERCEPT_CASSETTE_MODE says" in run.text


def test_what_is_secret_by_one_mark_stays_so_where_another_names_more(project: Project) -> None:
    project.write(
        "conftest.py",
        """
import pytest
from mcp_intercept.recording import Redaction

@pytest.fixture
def mcp_tape_options():
    return {"redaction": Redaction(patterns=["Oslo"])}
""",
    )
    project.write(
        "test_it.py",
        """
from mcp_intercept.recording import Redaction

pytestmark = pytest.mark.mcp_tape(redaction=Redaction(patterns=["Bergen"]))

@pytest.mark.mcp_tape(redaction=Redaction(patterns=["Rome"]))
def test_more():
    ask("Oslo, Bergen, Rome, Paris")

@pytest.mark.mcp_tape(redaction=None)
def test_nothing():
    ask("Oslo, Bergen, Rome, Paris")

@pytest.mark.mcp_tape(redaction="Rome")
def test_wrong():
    pass
""",
    )
    run = project.run()
    assert run.outcomes == {"PASSED": ["test_more", "test_nothing"], "ERROR": ["test_wrong"]}
    assert "InterceptError: redaction must be a Redaction, or None for none, not str" in run.text
    more, nothing = ((project.root / name).read_text(encoding="utf-8") for name in project.cassettes)
    assert [city in more for city in ("Oslo", "Bergen", "Rome", "Paris")] == [False, False, False, True]
    assert "Oslo, Bergen, Rome, Paris" in nothing


def test_a_fixture_of_a_project_that_gives_something_else_is_named(project: Project) -> None:
    given = {
        "mcp_tape_dir": ("None", "the fixture mcp_tape_dir gives a path, not None"),
        "mcp_tape_name": ("5", "the fixture mcp_tape_name gives a str, not 5"),
        "mcp_tape_options": (
            "None",
            "the fixture mcp_tape_options gives a dict of options of use_cassette(), not None",
        ),
        "mcp_tape_options ": ("{'ignor': ['x']}", "there is no option 'ignor', which mcp_tape_options gives; mode, "),
    }
    for number, (fixture, (value, _)) in enumerate(given.items()):
        project.write(
            f"test_{number}.py",
            f"@pytest.fixture\ndef {fixture.strip()}():\n    return {value}\n\n"
            f"@pytest.mark.mcp_tape\ndef test_{number}():\n    pass\n",
        )
    run = project.run()
    assert run.outcomes == {"ERROR": ["test_0", "test_1", "test_2", "test_3"]}
    for _, complaint in given.values():
        assert f"InterceptError: {complaint}" in run.text


def test_a_test_has_its_own_cassette_while_that_of_a_wider_fixture_is_open(project: Project) -> None:
    project.write(
        "test_it.py",
        """
from mcp_intercept import use_cassette

pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture(scope="module")
def around(anyio_backend):
    with use_cassette(f"around_{anyio_backend}.mcp.jsonl") as cassette:
        yield cassette

@pytest.fixture(scope="module")
async def wide(around, anyio_backend):
    # In the task that anyio runs fixtures and tests in.
    with use_cassette(f"wide_{anyio_backend}.mcp.jsonl"):
        async with connect(server) as session:
            yield session

async def test_of_all(wide):
    await wide.call_tool("forecast", {"city": "Oslo"})
    await ask_async("Rome")

@pytest.mark.mcp_tape
async def test_of_its_own(wide):
    await ask_async("Bergen")
    with use_cassette("inner.mcp.jsonl", mode="new_episodes"):
        await ask_async("Paris")
""",
    )
    assert project.run().status == 0
    cities = ("Oslo", "Rome", "Bergen", "Paris")
    said = {name: (project.root / name).read_text(encoding="utf-8") for name in project.cassettes}
    own = [name for name in said if "own" in name]
    assert len(own) == 2
    assert {name: [city for city in cities if city in text] for name, text in said.items()} == {
        **{name: ["Bergen"] for name in own},
        "inner.mcp.jsonl": ["Paris"],
        "wide_asyncio.mcp.jsonl": ["Oslo", "Rome"],
        "wide_trio.mcp.jsonl": ["Oslo", "Rome"],
    }


def test_a_project_decides_with_fixtures(project: Project) -> None:
    project.write(
        "conftest.py",
        """
import pytest

@pytest.fixture(scope="session")
def mcp_tape_dir():
    return "../tapes"

@pytest.fixture
def mcp_tape_name(request):
    return request.node.nodeid

@pytest.fixture(scope="session")
def mcp_tape_options():
    return {"mode": "rewrite", "ignore": ["city"], "everywhere": False}
""",
    )
    project.write(
        "tests/test_it.py",
        """
@pytest.mark.mcp_tape
def test_it(mcp_tape):
    assert ask() == "Oslo: snow"
    print("mode is", mcp_tape.mode)

@pytest.mark.mcp_tape("named")
def test_marked(mcp_tape):
    print("mode is", mcp_tape.mode, mcp_tape.path.name)

class TestOverridden:
    @pytest.fixture
    def mcp_tape_mode(self):
        return "none"

    def test_it(self, mcp_tape):
        print("mode is", mcp_tape.mode)
""",
    )
    run = project.run("-s", "-o", "pythonpath=.", "--mcp-unused=fail")
    assert re.findall(r"mode is .*", run.text) == ["mode is rewrite", "mode is rewrite named.mcp.jsonl", "mode is none"]
    assert [re.sub("[0-9a-f]{8}", "#", name) for name in project.cassettes] == [
        "tapes/tests_test_it.py_test_it-#.mcp.jsonl"
    ]
    assert run.unused == []


def test_tests_that_share_a_cassette_record_it_together(project: Project) -> None:
    project.write(
        "test_it.py",
        """
pytestmark = pytest.mark.mcp_tape("shared")

def test_first():
    ask("Oslo")
    assert "FAIL" not in os.environ

def test_second():
    ask("Bergen")

def test_third():
    ask("Oslo")
    ask("Bergen")
    ask("Oslo")
""",
    )
    assert project.run("--mcp-unused=fail").status == 0
    assert project.asked_live() == ["Oslo", "Bergen", "Oslo"]
    run = project.run("--mcp-record=rewrite", FAIL="1")
    assert run.outcomes["FAILED"] == ["test_first"]
    assert "is shared with tests that have recorded it before" not in run.text
    assert project.asked_live() == ["Oslo", "Bergen", "Oslo", "Oslo"]
    assert project.run("--mcp-record=none", "--mcp-unused=fail").status == 0
    assert project.asked_live() == []


def test_a_test_that_fails_of_what_others_have_recorded_says_so(project: Project) -> None:
    project.write(
        "test_it.py",
        """
pytestmark = pytest.mark.mcp_tape("shared")

def test_first():
    assert ask() == "Oslo: snow"

def test_second(monkeypatch):
    monkeypatch.setenv("WEATHER", "sun")  # as a server that keeps a state
    assert ask() == "Oslo: sun"
""",
    )
    run = project.run()
    assert run.outcomes["FAILED"] == ["test_second"]
    assert "shared.mcp.jsonl is shared with tests that have recorded it before this one in the same run." in run.text


@pytest.mark.parametrize("mode", [[], ["--mcp-record=rewrite"]])
def test_workers_add_to_what_others_have_recorded(project: Project, mode: list[str]) -> None:
    project.write(
        "conftest.py",
        """
import os
import time
from pathlib import Path

import pytest

@pytest.fixture(scope="session", autouse=True)
def in_turn():
    deadline = time.monotonic() + 100
    while os.environ.get("PYTEST_XDIST_WORKER") == "gw1" and not Path("first.done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield
    Path("first.done").touch()
""",
    )
    for module in ("test_a", "test_b"):
        project.write(f"{module}.py", "@pytest.mark.mcp_tape('./shared')\ndef test_it():\n    ask(__name__)\n")
    for asked in (["test_a", "test_b"], ["test_a", "test_b"] if mode else []):
        assert project.run("-p", "xdist", "-n2", "--dist=loadfile", *mode).status == 0
        assert sorted(project.asked_live()) == asked
        (project.root / "first.done").unlink()
    assert project.run("--mcp-record=none").status == 0


def test_a_file_that_is_put_there_is_none_that_workers_have_recorded(project: Project) -> None:
    project.write(
        "test_it.py",
        """
import shutil

@pytest.fixture
def mcp_tape_dir(tmp_path):
    if os.path.exists("stored"):
        shutil.copytree("stored", tmp_path, dirs_exist_ok=True)
        return tmp_path
    return os.path.abspath("stored")

@pytest.mark.mcp_tape("shared")
def test_it():
    ask()
""",
    )
    assert project.run().status == 0
    assert project.asked_live() == ["Oslo"]
    assert project.run("-p", "xdist", "-n1", CITY="Bergen").outcomes["FAILED"] == ["test_it"]
    assert project.asked_live() == []


def test_tests_that_record_one_file_at_once_are_told_of_it(project: Project) -> None:
    project.write("test_it.py", "def test_it(mcp_tape):\n    pass\n")
    journal = Journal(project.root / "cassettes" / "test_it" / "test_it.mcp.jsonl")
    alone, with_xdist = project.run(), project.run("-p", "xdist", "-n1")
    journal.discard()
    assert alone.outcomes["ERROR"] == with_xdist.outcomes["ERROR"] == ["test_it"]
    assert "give each test a cassette of its own\n" in alone.text
    assert "cassette of its own; or run without pytest-xdist, or with its --dist=loadfile\n" in with_xdist.text
    assert "Traceback" not in alone.text
    assert "journal.py" not in alone.text


def test_a_run_that_drops_what_tests_outside_of_it_need_warns(project: Project) -> None:
    project.write(
        "test_it.py",
        """
@pytest.mark.mcp_tape("shared")
def test_first():
    ask("Oslo")

@pytest.mark.mcp_tape("shared")
def test_second():
    ask("Bergen")

@pytest.mark.mcp_tape
def test_of_its_own():
    ask("Oslo")
    "LESS" in os.environ or ask("Bergen")
""",
    )
    assert project.run().status == 0
    all_again = project.run("--mcp-record=rewrite")
    own = project.run("--mcp-record=rewrite", "-k", "own", LESS="1")
    chosen = project.run("--mcp-record=rewrite", "test_it.py::test_first")
    same = project.run("--mcp-record=rewrite", "-k", "first")
    assert ["CassetteWarning" in run.text for run in (all_again, own, chosen, same)] == [False, False, True, False]
    assert "shared.mcp.jsonl was recorded again and has 1 fewer interactions, which tests that" in chosen.text


# When it is saved, and when it fails.


def test_it_is_saved_only_if_the_test_has_ended_as_it_will_again(project: Project) -> None:
    project.write(
        "test_it.py",
        """
pytestmark = pytest.mark.mcp_tape

def test_passes():
    ask()

def test_fails():
    ask()
    assert False

def test_skips():
    ask()
    pytest.skip("not here")

@pytest.mark.xfail(reason="known")
def test_is_expected_to_fail():
    ask()
    assert False

@pytest.mark.xfail(reason="known")
def test_passes_unexpectedly():
    ask()

@pytest.mark.xfail(strict=True, reason="known")
def test_passes_though_it_must_not():
    ask()

@pytest.fixture
def broken():
    ask()
    raise ValueError

def test_cannot_begin(broken):
    pass

@pytest.mark.skip
def test_does_not_begin():
    pass

@pytest.fixture
def breaking():
    yield
    raise ValueError

def test_cannot_end(breaking):
    ask()

@pytest.mark.mcp_tape(save_on_failure=True)
def test_fails_and_is_saved():
    ask()
    assert False

class TestCase(unittest.TestCase):
    def test_fails(self):
        ask()
        self.fail()
""",
    )
    run = project.run("-o", "log_cli=true")
    assert run.outcomes == {
        "PASSED": ["test_cannot_end", "test_passes"],
        "FAILED": ["TestCase::test_fails", "test_fails", "test_fails_and_is_saved", "test_passes_though_it_must_not"],
        "ERROR": ["test_cannot_begin", "test_cannot_end"],
        "XFAIL": ["test_is_expected_to_fail"],
        "XPASS": ["test_passes_unexpectedly"],
    }
    assert project.cassettes == [
        "cassettes/test_it/test_cannot_end.mcp.jsonl",
        "cassettes/test_it/test_fails_and_is_saved.mcp.jsonl",
        "cassettes/test_it/test_is_expected_to_fail.mcp.jsonl",
        "cassettes/test_it/test_passes.mcp.jsonl",
        "cassettes/test_it/test_passes_though_it_must_not.mcp.jsonl",
        "cassettes/test_it/test_passes_unexpectedly.mcp.jsonl",
    ]
    dropped = re.findall(
        r"what was recorded for \S+[/\\](\S+)\.mcp\.jsonl is not kept, as the test did not pass; "
        r"save_on_failure=True or --mcp-save-on-failure keeps it$",
        run.text,
        re.MULTILINE,
    )
    assert set(dropped) == {"TestCase.test_fails", "test_cannot_begin", "test_fails", "test_skips"}
    project.run("--mcp-save-on-failure", "-k", "test_fails and not TestCase")
    assert "cassettes/test_it/test_fails.mcp.jsonl" in project.cassettes


def test_a_test_that_is_known_to_fail_is_replayed(project: Project) -> None:
    project.write(
        "test_it.py",
        """
pytestmark = pytest.mark.mcp_tape
known = pytest.mark.xfail(strict=True, reason="known")

@known
def test_ends():
    assert ask() == "Oslo: snow"
    assert "FIXED" in os.environ

@known
def test_says_so():
    assert ask() == "Oslo: snow"
    "FIXED" in os.environ or pytest.xfail("known")

@unittest.expectedFailure
class TestCase(unittest.TestCase):
    def test_fails(self):
        self.assertEqual(ask(), "Oslo: snow")
        self.assertIn("FIXED", os.environ)

@pytest.fixture
def failing():
    assert ask() == "Oslo: snow"
    assert "FIXED" in os.environ

@known
def test_does_not_begin(failing):
    pass
""",
    )
    known = {"XFAIL": ["TestCase::test_fails", "test_does_not_begin", "test_ends", "test_says_so"]}
    assert project.run("--mcp-unused=fail").outcomes == known
    assert project.asked_live() == ["Oslo"] * 4
    again = project.run("--mcp-unused=fail", "--mcp-block", CI="true")
    assert (again.status, again.outcomes, again.unused) == (0, known, [])
    fixed = project.run(CI="true", FIXED="1")
    assert fixed.outcomes == {"FAILED": known["XFAIL"]}
    assert "[XPASS(strict)] known" in fixed.about("test_ends")
    assert project.asked_live() == []


def test_what_a_test_is_known_to_fail_of_is_no_miss(project: Project) -> None:
    project.write(
        "test_it.py",
        """
from mcp_intercept.errors import CassetteDriftError, CassetteMissError

pytestmark = pytest.mark.mcp_tape
known = pytest.mark.xfail("CITY" in os.environ, reason="known")

@known
def test_misses():
    ask()

@known
def test_swallows():
    swallow()

@known
def test_fails_of_it():
    swallow()
    assert "CITY" not in os.environ

@pytest.mark.xfail("CITY" in os.environ, reason="known", raises=(Exception, CassetteDriftError))
def test_fails_of_anything():
    ask()

def test_says_so():
    swallow()
    "CITY" in os.environ and pytest.xfail("known")

def test_skips():
    swallow()
    "CITY" in os.environ and pytest.skip("no server")

@pytest.fixture
def missing():
    ask()

@known
def test_could_not_begin(missing):
    pass

@pytest.fixture
def ending():
    yield
    swallow()

@known
def test_ends_with_it(ending):
    assert "CITY" not in os.environ

@pytest.fixture
def failing():
    yield
    assert "CITY" not in os.environ

@known
def test_fails_before_it_ends(failing):
    ask()

@pytest.mark.xfail("CITY" in os.environ, reason="known", raises=CassetteMissError)
def test_is_known_to():
    swallow()
""",
    )
    assert "FAILED" not in (first := project.run()).text, first.text
    run = project.run(CITY="Bergen")
    assert run.outcomes == {
        "FAILED": [
            "test_fails_before_it_ends",
            "test_fails_of_anything",
            "test_fails_of_it",
            "test_misses",
            "test_says_so",
            "test_skips",
            "test_swallows",
        ],
        "ERROR": ["test_could_not_begin", "test_ends_with_it"],
        # That the fixture of one fails in the end, has nothing to do with cassettes.
        "XFAIL": ["test_ends_with_it", "test_fails_before_it_ends", "test_is_known_to"],
    }
    for name in ("test_misses", "test_swallows", "test_fails_of_it", "ERROR at setup of test_could_not_begin"):
        told = run.about(name).strip()
        assert told.startswith(str(project.root / "cassettes"))
        assert told.count('/arguments/city: recorded "Oslo", now "Bergen"') == 1
        assert "Traceback" not in told
    assert "/arguments/city" in run.about("ERROR at teardown of test_ends_with_it")


def test_what_was_recorded_before_somebody_stops_the_run_is_kept(project: Project) -> None:
    project.write(
        "test_it.py",
        """
@pytest.mark.mcp_tape
def test_interrupted():
    ask()
    raise KeyboardInterrupt
""",
    )
    assert project.run().status == pytest.ExitCode.INTERRUPTED
    assert project.cassettes == ["cassettes/test_it/test_interrupted.mcp.jsonl.part"]
    [journal] = project.root.glob("cassettes/*/*")
    assert '"city":"Oslo"' in journal.read_text(encoding="utf-8")


def test_a_miss_fails_the_test_whoever_has_swallowed_it(project: Project) -> None:
    project.write(
        "test_it.py",
        """
from mcp_intercept.errors import CassetteMissError

pytestmark = pytest.mark.mcp_tape

def test_swallows():
    swallow()

@pytest.mark.anyio
async def test_swallows_async(anyio_backend_name):
    try:
        await ask_async(os.environ.get("CITY", "Oslo"))
    except Exception:
        pass

class TestCase(unittest.TestCase):
    def test_swallows(self):
        swallow()

def test_fails_of_it():
    swallow()
    assert "CITY" not in os.environ

@pytest.fixture
def swallowing():
    swallow()

def test_began_with_it(swallowing):
    pass

@pytest.fixture
def failing():
    ask()

def test_could_not_begin(failing):
    pass

@pytest.fixture
def ending():
    yield
    swallow()

def test_ends_with_it(ending):
    pass

@pytest.mark.xfail("CITY" in os.environ, raises=CassetteMissError, reason="known")
def test_is_known_to():
    swallow()

@pytest.mark.mcp_tape(ignore=["city"])
def test_does_not_mind():
    ask()
""",
    )
    assert "FAILED" not in (first := project.run()).text, first.text
    project.asked_live()
    run = project.run(CITY="Bergen")
    assert project.asked_live() == []
    assert run.outcomes == {
        "PASSED": ["test_does_not_mind", "test_ends_with_it"],
        "FAILED": [
            "TestCase::test_swallows",
            "test_began_with_it",
            "test_fails_of_it",
            "test_swallows",
            "test_swallows_async[asyncio]",
            "test_swallows_async[trio]",
        ],
        "ERROR": ["test_could_not_begin", "test_ends_with_it"],
        "XFAIL": ["test_is_known_to"],
    }
    swallowed = run.about("test_swallows")
    assert swallowed.lstrip().startswith(str(project.root / "cassettes"))
    assert '/arguments/city: recorded "Oslo", now "Bergen"' in swallowed
    assert "Traceback" not in swallowed
    assert swallowed.count("/arguments/city") == 1
    failed = run.about("test_fails_of_it")
    assert "AssertionError" in failed or "assert 'CITY' not in" in failed
    assert failed.count("/arguments/city") == 1
    assert "/arguments/city" in run.about("ERROR at setup of test_could_not_begin")


def test_a_server_that_answers_otherwise_fails_the_test_that_verifies_it(project: Project) -> None:
    project.write("test_it.py", "@pytest.mark.mcp_tape\ndef test_it():\n    ask()\n")
    assert project.run().status == 0
    assert project.run("--mcp-record=verify", "--mcp-unused=fail").status == 0
    run = project.run("--mcp-record=verify", WEATHER="rain")
    assert run.outcomes == {"FAILED": ["test_it"]}
    assert "is no longer what happens" in run.about("test_it")
    assert "rain" in run.about("test_it")


# What is blocked.


def test_a_live_connection_is_refused_where_it_is_not_recorded(project: Project) -> None:
    project.write(
        "test_it.py",
        """
def test_bare():
    anyio.run(ask_elsewhere)

@pytest.mark.mcp_tape(everywhere=False)
def test_past_the_cassette():
    anyio.run(ask_elsewhere)

@pytest.mark.mcp_tape
def test_recorded():
    assert "Oslo" in anyio.run(ask_elsewhere)

@pytest.mark.mcp_tape(mode="off")
def test_off():
    anyio.run(ask_elsewhere)

@pytest.mark.mcp_tape(mode="off")
def test_off_connected():
    async def connected():
        async with connect([sys.executable, "-m", "mcp_intercept", "demo-server"]):
            raise AssertionError("it is live")

    anyio.run(connected)

@pytest.mark.mcp_live
def test_live():
    assert "Oslo" in anyio.run(ask_elsewhere)

@pytest.fixture(scope="module")
def too_early():
    return anyio.run(ask_elsewhere)

@pytest.mark.mcp_tape
def test_with_what_was_opened_before(too_early):
    assert "Oslo" in too_early

def test_in_process():
    assert ask() == "Oslo: snow"

@pytest.mark.skipif(not hasattr(__import__("mcp"), "Client"), reason="of line 2")
def test_in_process_client():
    from mcp import Client

    async def ask_client():
        async with Client(server) as client:
            return (await client.call_tool("forecast", {"city": "Oslo"})).content[0].text

    assert anyio.run(ask_client) == "Oslo: snow"
""",
    )
    run = project.run("--mcp-block")
    assert run.outcomes["FAILED"] == ["test_bare", "test_off", "test_off_connected", "test_past_the_cassette"]
    assert run.outcomes["ERROR"] == ["test_with_what_was_opened_before"]
    assert "open it in a fixture of function scope" in run.text
    client = [] if LINE_1 else ["test_in_process_client"]
    assert run.outcomes["PASSED"] == ["test_in_process", *client, "test_live", "test_recorded"]
    assert "--mcp-block allows no live connection, and stdio_client() opens one to 'mcp_intercept'; " in run.about(
        "test_bare"
    )
    assert "record it and replay it with @pytest.mark.mcp_tape" in run.about("test_bare")
    assert "lead it through <Cassette" in run.about("test_past_the_cassette")
    for name in ("test_off", "test_off_connected"):
        assert "give its cassette a mode other than 'off', or let it pass with @pytest.mark.mcp_live" in run.about(name)
    assert project.cassettes == ["cassettes/test_it/test_recorded.mcp.jsonl"]


# What is told at the end.


def test_requests_that_no_test_makes_are_told_at_the_end(project: Project) -> None:
    asks = "\n".join(f"    ask('n{number}') if 'LESS' not in os.environ else None" for number in range(7))
    project.write(
        "test_it.py",
        f"""
@pytest.mark.mcp_tape
def test_less():
    ask()
{asks}

@pytest.mark.mcp_tape
def test_same():
    ask()

@pytest.mark.mcp_tape
def test_same():
    ask()

@pytest.mark.mcp_tape
def test_fails():
    assert "FAIL" not in os.environ
    ask()

@pytest.mark.mcp_tape("shared")
def test_first():
    if "LESS" not in os.environ:
        ask("Oslo")
        ask("Bergen")

@pytest.mark.mcp_tape("shared")
def test_second():
    ask("Oslo")

@pytest.mark.mcp_tape("shared")
def test_third():
    if "NONE" not in os.environ:
        ask("Bergen")
""",
    )
    recorded = project.run("--mcp-unused=fail")
    assert (recorded.status, recorded.unused) == (0, [])
    warned = project.run("--mcp-unused=warn", LESS="1", FAIL="1")
    less = "cassettes/test_it/test_less.mcp.jsonl: no test asks for "
    assert [re.sub("#[0-9]+", "#", line) for line in warned.unused] == [
        less + ", ".join(["# tools/call forecast"] * 5) + " and 2 more"
    ]
    # What shares a cassette may not have run.
    chosen = project.run("--mcp-unused=warn", "-k", "less or second", LESS="1")
    assert (chosen.status, chosen.unused) == (0, warned.unused)
    failed = project.run("-o", "mcp_unused=fail", LESS="1", NONE="1")
    assert failed.status == pytest.ExitCode.TESTS_FAILED
    assert "FAILED" not in failed.outcomes
    assert [line.partition(": ")[0] for line in failed.unused] == [
        "cassettes/test_it/shared.mcp.jsonl",
        "cassettes/test_it/test_less.mcp.jsonl",
    ]
    assert project.run("--mcp-unused=fail", "--mcp-record=rewrite", "-k", "less", LESS="1").status == 0


def test_cassettes_that_no_test_uses_are_told_where_that_is_sure(project: Project) -> None:
    project.write(
        "conftest.py",
        """
import os

collect_ignore = ["test_ignored.py"]

def pytest_collection_modifyitems(items):
    if "DROP" in os.environ:
        del items[0]
""",
    )
    taped = "@pytest.mark.mcp_tape\ndef test_taped():\n    pass\n"
    project.write("test_it.py", f"{taped}\ndef test_other():\n    assert 'FAIL' not in os.environ\n")
    project.write("test_plain.py", "def test_plain():\n    pass\n")
    project.write("test_skipped.py", f"@pytest.mark.skip\n{taped}")
    project.write("test_ignored.py", taped)
    for name in ("test_it/test_other.mcp.jsonl.part", "test_it/test_taped.mcp.jsonl.part.1", "test_ignored/x.part"):
        project.write(f"cassettes/{name}", "")
    for name in (
        "cassettes/of_nobody.mcp.jsonl",
        "cassettes/test_gone/test_taped.mcp.jsonl",
        "cassettes/test_ignored/test_taped.mcp.jsonl",
        "cassettes/test_it/test_gone.mcp.jsonl",
        "cassettes/test_it/test_taped.mcp.jsonl",
        "cassettes/test_it/of-something-else.jsonl",
        "cassettes/test_plain/test_gone.mcp.jsonl",
        "cassettes/test_skipped/test_taped.mcp.jsonl",
    ):
        project.write(name, '{"format":"mcp-cassette","version":1}\n{"end":true}\n')
    gone, in_module, in_plain = (
        f"cassettes/{name}.mcp.jsonl: no test uses it"
        for name in ("test_gone/test_taped", "test_it/test_gone", "test_plain/test_gone")
    )
    interrupted = [
        f"cassettes/test_it/{name}: of an interrupted recording; `mcp-intercept cassette recover` saves it"
        for name in ("test_other.mcp.jsonl.part", "test_taped.mcp.jsonl.part.1")
    ]

    def unused(*options: str, **environment: str) -> tuple[int, list[str]]:
        run = project.run("--mcp-unused=fail", *options, **environment)
        assert "ERROR" not in run.outcomes
        return run.status, run.unused

    assert unused() == (1, [gone, in_module, *interrupted, in_plain])
    assert unused(".", FAIL="1") == (1, [gone, in_module, *interrupted, in_plain])
    assert unused("test_it.py") == (1, [in_module, *interrupted])
    assert unused("-p", "xdist", "-n", "2") == (1, [gone, in_module, *interrupted, in_plain])
    for options in (["-k", "test"], ["test_it.py::test_taped"], ["--collect-only"]):
        assert unused(*options) == (0, []), options
    assert unused(DROP="1") == (0, [])
    assert unused("-p", "xdist", "-n", "2", DROP="1") == (0, [])
    assert unused("-x", FAIL="1") == (1, [])


def test_a_run_with_a_worker_that_crashed_does_not_tell_what_no_test_uses(project: Project) -> None:
    project.write(
        "test_it.py",
        """
@pytest.mark.parametrize("number", range(4))
def test_crashes(number):
    os._exit(1)
""",
    )
    project.write("cassettes/test_it/test_gone.mcp.jsonl", '{"format":"mcp-cassette","version":1}\n{"end":true}\n')
    for options in (["-n", "1", "--max-worker-restart=0"], ["-n", "2"]):
        run = project.run("-p", "xdist", *options, "--mcp-unused=fail")
        assert "crashed while running" in run.text
        assert run.unused == []


# What it does to those who do not use it.


def test_a_run_without_cassettes_does_not_import_what_it_would_need(project: Project) -> None:
    (project.root / "test_it.py").write_text(
        """
import sys

def test_it(request):
    assert "mcp_intercept.pytest_plugin" in sys.modules
    assert [name for name in sys.modules if name.partition(".")[0] in ("mcp", "pydantic", "opentelemetry")] == []
    assert "mcp_tape" not in request.fixturenames
""",
        encoding="utf-8",
    )
    assert project.run("--strict-markers", "--strict-config").outcomes == {"PASSED": ["test_it"]}
    assert (
        project.run("--collect-only", "-o", "mcp_record=always").text.count("mcp_record must be one of none, once, ")
        == 1
    )


def test_pytest_finds_it_by_itself(project: Project) -> None:
    assert [entry.value for entry in entry_points(group="pytest11", name="mcp_intercept")] == [
        "mcp_intercept.pytest_plugin"
    ]
    run = project.run_installed("--markers")
    assert "@pytest.mark.mcp_tape(name=None, *, mode=None, **options): record " in run.text
    assert "@pytest.mark.mcp_live: " in run.text


def test_tests_that_run_at_once_do_not_disturb_each_other(project: Project) -> None:
    project.write(
        "test_it.py",
        """
@pytest.mark.mcp_tape
@pytest.mark.parametrize("number", range(8))
def test_it(number):
    ask(f"n{number}")
    ask("Oslo") if "LESS" not in os.environ else None
""",
    )
    options = ["-p", "xdist", "-n", "2", "--mcp-unused=fail"]
    assert project.run(*options).status == 0
    assert len(project.cassettes) == 8
    project.asked_live()
    run = project.run(*options, LESS="1")
    assert (run.status, len(run.unused), run.outcomes.get("FAILED")) == (1, 8, None)
    assert project.asked_live() == []


# What it is made of.


def test_the_modes_are_those_of_the_engine() -> None:
    assert get_args(Mode) == MODES
    assert get_args(Unused) == UNUSED


@given(st.text(max_size=120), st.booleans())
def test_a_safe_name_is_one_name_and_stays_as_it_is(text: str, is_unique: bool) -> None:
    name = safe_name(text, is_unique=is_unique)
    assert re.fullmatch(r"[A-Za-z0-9_,=+@-][A-Za-z0-9_.,=+@-]{0,99}", name)
    assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", name, re.IGNORECASE)
    assert safe_name(name) == name


@given(st.text("aA./_\0é", max_size=6), st.text("aA./_\0é", max_size=6))
def test_two_texts_have_two_safe_names(one: str, other: str) -> None:
    names = {safe_name(text, is_unique=text == text.lower()).lower() for text in (one, other)}
    assert len(names) == len({one, other})


@pytest.mark.parametrize("text", ["con", "NUL.x", "Aux", "com1.txt"])
def test_a_safe_name_is_none_of_a_device(text: str) -> None:
    assert safe_name(text).startswith("_")
    assert safe_name(safe_name(text)) == safe_name(text)
