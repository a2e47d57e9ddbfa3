"""Every example runs, and shows what it is about."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.otlp import Received, receiver
from tests.wire import LINE_1

EXAMPLES = Path(__file__).parent.parent / "examples"

SHOWN = {
    "allow_list.py": ["allowed, 4 tools", "refused: 'travel-desk' is not on the list: weather, news"],
    "bearer_token.py": ["Bergen: light snow", "tokens: token-1, token-2", "tenants: Bergen, Narvik, Oslo"],
    "coming_from_mcp_use.py": ["Calling tool forecast", "alice -> tools/call", "tools/list took", "Bergen:", "2 calls"],
    "metrics.py": ["1 tool_error", "slow: tools/call find_rooms", 'name="forecast",outcome="ok"} 3.0'],
    "record_and_replay.py": [
        "live:     Oslo",
        "replayed: Oslo",
        "changed:  no idea",
        "No recorded answer to tools/call",
    ],
    "per_session.py": ["hits: {'one': 2}", "Bergen: light snow", "refused: one has made its 2 calls"],
    "traces_to_console.py": ["agent run", "\n  tools/call forecast ", "tool_error", "mcp.client.session.duration"],
    "traces_to_otlp.py": ["Oslo: light snow", "is at http://127.0.0.1:"],
    "vendor_methods.py": ["London rain", "Rome unknown:"],
}


def run_example(name: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name)]
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "example"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Generator[Received, None, None]:
    """Gets the traces of examples that send them."""
    with receiver(tmp_path_factory.mktemp("otlp") / "received.jsonl") as received:
        yield received


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_the_example_runs_and_shows_what_it_is_about(name: str, received: Received) -> None:
    run = run_example(name, received.url)
    assert run.returncode == 0, run.stderr
    for line in SHOWN[name]:
        assert line in run.stdout


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHOWN, "test_travel.py"}


def test_the_example_of_a_test_replays_on_every_line_with_nobody_there() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--mcp-record=none", "--mcp-block", "--mcp-unused=fail"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    run = subprocess.run(
        [*command, str(EXAMPLES / "test_travel.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout


def test_the_example_that_sends_traces_says_where_they_are(received: Received) -> None:
    run = run_example("traces_to_otlp.py", received.url)
    [root] = [span for span in received.spans if span.name == "agent run" and span.trace_id in run.stdout]
    [call] = [span for span in received.spans if span.parent_id == root.span_id and span.name == "tools/call forecast"]
    assert (call.kind, call.service, root.trace_id) == ("CLIENT", "example", call.trace_id)
    assert {"/v1/traces", "/v1/metrics"} <= received.paths


def test_the_example_that_sends_traces_ends_where_nobody_takes_them() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = run_example("traces_to_otlp.py", url)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"nothing listens at {url} (")
    assert run.stderr.endswith("set OTEL_EXPORTER_OTLP_ENDPOINT\n")


@pytest.mark.skipif(LINE_1, reason="line 1's servers have no spans")
def test_the_readme_shows_the_spans_that_the_example_prints(received: Received) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    [shown] = re.findall(r"```text\n(agent run.*?)```", readme, re.DOTALL)

    def without_times(text: str) -> list[list[str]]:
        return [re.sub(r"[0-9.]+ (ms|s)\b", "", line).split() for line in text.splitlines()]

    assert without_times(run_example("traces_to_console.py", received.url).stdout) == without_times(shown)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("overhead", "per layer"), ("tracing", "Added to the bare SDK"), ("cassettes", "replayed to live")],
)
def test_the_benchmark_runs(name: str, shown: str) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=EXAMPLES.parent)
    assert run.returncode == 0, run.stderr
    assert shown in run.stdout
