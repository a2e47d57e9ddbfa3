"""A program that knows nothing of tracing, in Phoenix: what its users see of the trace. Needs `arize-phoenix`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.test_instrumentation import BY_HAND, DEMO_SERVER, INSTRUMENT, environment, program, run
from tests.wire import LINE_1

pytest.importorskip("phoenix")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def within(seconds: float, attempt: Callable[[], Any]) -> Any:
    """What `attempt` returns, once that is something."""
    deadline = monotonic() + seconds
    while not (found := attempt()):
        assert monotonic() < deadline
        sleep(0.2)
    return found


def get(url: str) -> Any:
    """What the API answers, `None` as long as nobody is there."""
    try:
        with urlopen(url, timeout=10) as response:
            body: bytes = response.read()
    except (URLError, ConnectionError):
        return None
    return json.loads(body) if body.startswith(b"{") else body


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """A server of its own, with a database of its own; the value is its URL."""
    port = free_port()
    settings = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_WORKING_DIR": str(tmp_path_factory.mktemp("phoenix")),
    }
    command = [sys.executable, "-m", "phoenix.server.main", "serve"]
    with subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            within(120, lambda: process.poll() is not None or get(f"{url}/healthz") is not None)
            assert process.poll() is None, "Phoenix ended"
            yield url
        finally:
            process.terminate()


def test_phoenix_shows_one_trace_across_client_and_server(phoenix: str, tmp_path: Path) -> None:
    env = environment(phoenix, OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")  # it takes neither
    env["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "true"
    done = run([*program(tmp_path, BY_HAND), INSTRUMENT, "--service_name", "travel-desk", *DEMO_SERVER], env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")

    wanted = 5 if LINE_1 else 9  # a root and four messages, each of which the server has seen
    url = f"{phoenix}/v1/projects/default/spans?limit=100"
    spans = within(30, lambda: len(found := (get(url) or {}).get("data", ())) >= wanted and found)
    by_id = {span["context"]["span_id"]: span for span in spans}

    def parent(span: Any) -> Any:
        return by_id[span["parent_id"]]

    [root] = [span for span in spans if span["name"] == "agent run"]
    calls = [span for span in spans if span["name"] == "tools/call forecast"]
    assert (root["parent_id"], len(spans)) == (None, wanted)
    [call] = [span for span in calls if parent(span) is root]
    assert [parent(span) for span in calls if span is not call] == ([] if LINE_1 else [call])
    # Its own kind of span, which it concludes from `gen_ai.operation.name`.
    assert {span["span_kind"] for span in calls} == {"TOOL"}
    assert {span["context"]["trace_id"] for span in calls} == {root["context"]["trace_id"]}
    assert json.loads(call["attributes"]["gen_ai.tool.call.arguments"]) == {"city": "Oslo"}
