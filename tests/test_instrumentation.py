"""Without a line of code: `opentelemetry-instrument` on programs that know nothing of this, and what arrives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from importlib import import_module
from importlib.metadata import entry_points, requires
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from mcp import ClientSession
from opentelemetry.sdk.trace import TracerProvider
from packaging.requirements import Requirement

from mcp_intercept import InterceptError, intercept
from mcp_intercept.errors import MissingExtraError
from mcp_intercept.instrumentation import MCPInterceptInstrumentor
from mcp_intercept.middleware import TracingMiddleware
from tests.otlp import Received, receiver
from tests.server import ROOT
from tests.telemetry import Telemetry
from tests.wire import LINE_1, wire

INSTRUMENT = str(Path(sysconfig.get_path("scripts"), "opentelemetry-instrument"))

# The bare SDK, and a server that gets the environment of the program, as those do that a user configures.
AGENT = """\
    import os, sys

    import anyio
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    SERVER = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))

    async def main():
        async with stdio_client(SERVER) as streams, ClientSession(*streams) as session:
            await session.initialize()
            await use(session)

    async def use(session):
        result = await session.call_tool("forecast", {"city": "Oslo"})
        print(result.content[0].text, flush=True)
"""
RUN = """
    anyio.run(main)
"""

# Ours by hand as well, under a span of the program's own.
BY_HAND = """
    from mcp_intercept import intercept
    from mcp_intercept.middleware import TracingMiddleware
    from opentelemetry import trace

    bare = use

    async def use(session):
        with trace.get_tracer("agent").start_as_current_span("agent run"):
            await bare(intercept(session, TracingMiddleware()))

    anyio.run(main)
"""

# It is interrupted in the middle of a call.
ENDLESS = """
    bare = use

    async def use(session):
        await bare(session)
        print("ready", flush=True)
        await session.call_tool("slow", {"seconds": 60})

    anyio.run(main)
"""

DEMO_SERVER = [sys.executable, "-m", "mcp_intercept", "demo-server"]

# Line 1 traces nothing by itself.
TRACING_SERVER = """\
    import warnings

    from mcp.server.fastmcp import Context, FastMCP
    from opentelemetry import propagate, trace

    warnings.simplefilter("ignore")  # newer pydantic-settings warn of how it declares its settings
    server = FastMCP("traced", log_level="CRITICAL")

    @server.tool()
    async def forecast(city: str, ctx: Context) -> str:
        parent = propagate.extract(ctx.request_context.meta.model_dump())
        kind = trace.SpanKind.SERVER
        with trace.get_tracer("server").start_as_current_span("tools/call forecast", parent, kind):
            return f"{city}: light snow, -3 °C"

    server.run()
"""


SLOW_SERVER = """\
    import anyio
    try:
        from mcp.server.mcpserver import MCPServer as Server
    except ImportError:
        from mcp.server.fastmcp import FastMCP as Server

    server = Server("slow", log_level="CRITICAL")

    @server.tool()
    def forecast(city: str) -> str:
        return city

    @server.tool()
    async def slow(seconds: float) -> None:
        await anyio.sleep(seconds)

    server.run()
"""


def environment(url: str | None = None, **more: str) -> dict[str, str]:
    """That of a user who exports to a URL."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    # As here: from the checkout, also where the package is installed.
    outside["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [outside.get("PYTHONPATH")])])
    otel = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    if url is not None:
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    return {**outside, "PYTHONIOENCODING": "utf-8", "OTEL_SERVICE_NAME": "agent", **otel, **more}


def run(command: list[str], env: dict[str, str], path: Path) -> subprocess.CompletedProcess[str]:
    # In `path`, as `opentelemetry-instrument` imports from where it is started.
    return subprocess.run(
        command, env=env, cwd=path, capture_output=True, text=True, encoding="utf-8", timeout=90, check=False
    )


def write(path: Path, *program: str) -> str:
    path.write_text("".join(map(dedent, program)), "utf-8")
    return str(path)


def program(path: Path, *parts: str) -> list[str]:
    return [INSTRUMENT, sys.executable, write(path / "agent.py", AGENT, *parts)]


# A run of a program that knows nothing


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Generator[Received, None, None]:
    """What a run of the bare program sent, and its server, a process of its own that is instrumented as well."""
    path = tmp_path_factory.mktemp("run")
    server = [sys.executable, write(path / "server.py", TRACING_SERVER)] if LINE_1 else DEMO_SERVER
    with receiver(path / "received.jsonl") as received:
        command = [*program(path, RUN), INSTRUMENT, "--service_name", "travel-desk", *server]
        done = run(command, environment(received.url), path)
        assert (done.stdout, done.stderr, done.returncode) == ("Oslo: light snow, -3 °C\n", "", 0)
        yield received


def test_each_message_has_one_span_and_each_is_ours(received: Received) -> None:
    sent = [span for span in received.spans if span.service == "agent"]
    # The SDK asks for the list by itself, to learn the tool's output schema.
    names = ["initialize", "notifications/initialized", "tools/call forecast", "tools/list"]
    assert [(span.name, span.kind, span.scope) for span in sent] == [
        (name, "CLIENT", "mcp_intercept") for name in names
    ]
    assert [span.error for span in sent] == [False] * 4


def test_what_the_server_does_is_in_the_trace_of_the_call(received: Received) -> None:
    served = [span for span in received.spans if span.service == "travel-desk"]
    names = ["tools/call forecast"] if LINE_1 else [span.name for span in received.spans if span.service == "agent"]
    assert [span.name for span in served] == names
    for span in served:
        call = received.span(span.name)
        assert (span.kind, span.trace_id, span.parent_id) == ("SERVER", call.trace_id, call.span_id)
        assert (span.seconds <= call.seconds, call.parent_id) == (True, "")


def test_nothing_of_what_is_said_leaves_the_process(received: Received) -> None:
    attributes = received.span("tools/call forecast").attributes
    assert attributes.pop("mcp.protocol.version")
    assert attributes.pop("jsonrpc.request.id")
    assert attributes.pop("mcp_intercept.connection_id").startswith("mcp-")
    assert attributes == {
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "forecast",
        "network.transport": "pipe",
    }
    assert "Oslo" not in str(received.spans)


def test_durations_arrive_as_well(received: Received) -> None:
    points = [point for point in received.points if point.scope == "mcp_intercept"]
    assert {(point.service, point.unit, point.count) for point in points} == {("agent", "s", 1)}
    assert all(point.bounds[:2] == [0.01, 0.02] for point in points)
    methods = {point.attributes["mcp.method.name"] for point in points if point.name == "mcp.client.operation.duration"}
    assert methods == {"initialize", "notifications/initialized", "tools/call", "tools/list"}
    [session] = [point for point in points if point.name == "mcp.client.session.duration"]
    assert session.sum > received.span("tools/call forecast").seconds


# What users do besides


def test_a_program_that_traces_by_hand_as_well_has_one_span_for_each_call(tmp_path: Path) -> None:
    with receiver(tmp_path / "received.jsonl") as received:
        env = environment(received.url, OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="span_only")
        done = run([*program(tmp_path, BY_HAND), *DEMO_SERVER], env, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        root = received.span("agent run", "INTERNAL")
        call = received.span("tools/call forecast")
        assert (call.trace_id, call.parent_id) == (root.trace_id, root.span_id)
        assert json.loads(call.attributes["gen_ai.tool.call.arguments"]) == {"city": "Oslo"}
        durations = [point for point in received.points if point.attributes.get("gen_ai.tool.name") == "forecast"]
        assert [(point.name, point.count) for point in durations] == [("mcp.client.operation.duration", 1)]


def test_the_environment_can_do_without_it(tmp_path: Path) -> None:
    with receiver(tmp_path / "received.jsonl") as received:
        env = environment(received.url, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="mcp_intercept")
        done = run([*program(tmp_path, RUN), *DEMO_SERVER], env, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        # Line 2 traces by itself.
        assert {span.scope for span in received.spans} == (set() if LINE_1 else {"mcp-python-sdk"})
        assert received.points == []


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_what_has_ended_before_the_program_is_interrupted_arrives(how: str, tmp_path: Path) -> None:
    with receiver(tmp_path / "received.jsonl") as received:
        env = environment(received.url, OTEL_BSP_SCHEDULE_DELAY="50")
        server = [sys.executable, write(tmp_path / "server.py", SLOW_SERVER)]
        command = [*program(tmp_path, ENDLESS), *server]
        with subprocess.Popen(
            command,
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        ) as process:
            assert process.stdout
            assert [process.stdout.readline() for _ in range(2)][-1] == "ready\n"
            received.wait_for(
                lambda it: ("tools/call forecast", "CLIENT") in [(span.name, span.kind) for span in it.spans]
            )
            process.send_signal(signal.Signals[how])
            assert process.wait(30) != 0
        names = [span.name for span in received.spans if span.kind == "CLIENT"]
        assert names[:3] == ["initialize", "notifications/initialized", "tools/call forecast"]
        if how == "SIGINT":  # what ends by it is sent when Python ends, which nothing else lets happen
            assert received.span("tools/call slow").attributes["error.type"] == "cancelled"
            assert "mcp.client.session.duration" in {point.name for point in received.points}


# In a Python that `opentelemetry-instrument` has started: nothing is imported that the program does not import.
NOTHING = """
    import sys

    assert not [name for name in ("mcp", "starlette", "pydantic") if name in sys.modules]
"""

TAKEN_BACK = """
    from mcp_intercept.instrumentation import MCPInterceptInstrumentor
    MCPInterceptInstrumentor().uninstrument()

    from mcp import ClientSession
    from mcp.client.streamable_http import StreamableHTTPTransport
    assert "__wrapped__" not in vars(ClientSession.__init__)
    MCPInterceptInstrumentor().instrument()
    MCPInterceptInstrumentor().uninstrument()
    assert "__wrapped__" not in vars(ClientSession.__init__)
"""

TAKEN_BACK_LATER = """
    from mcp import ClientSession
    from mcp.client.streamable_http import StreamableHTTPTransport
    from mcp_intercept.instrumentation import MCPInterceptInstrumentor

    assert "__wrapped__" in vars(ClientSession.__init__) and "__wrapped__" in vars(StreamableHTTPTransport.post_writer)
    MCPInterceptInstrumentor().uninstrument()
    assert "__wrapped__" not in vars(ClientSession.__init__)
    assert "__wrapped__" not in vars(StreamableHTTPTransport.post_writer)
"""


# Some had looked up what it waits with, before it was over.
IN_USE = """
    import anyio
    from mcp import ClientSession
    from mcp_intercept.instrumentation import MCPInterceptInstrumentor

    waiting = ClientSession.__init__
    for _ in range(2):
        waiting(ClientSession.__new__(ClientSession), *anyio.create_memory_object_stream(0)[::-1])
    assert ClientSession.__init__ is not waiting and "__wrapped__" in vars(ClientSession.__init__)

    from mcp_intercept import intercept_all
    with intercept_all() as manager:
        MCPInterceptInstrumentor().uninstrument()
        session = ClientSession(*anyio.create_memory_object_stream(0)[::-1])
        assert session in [wrapper.client_session for wrapper in manager.sessions]  # that of others goes on
    assert "__wrapped__" not in vars(ClientSession.__init__)
"""


@pytest.mark.parametrize(
    "script", [NOTHING, TAKEN_BACK, TAKEN_BACK_LATER, IN_USE], ids=["nothing", "taken back", "later", "in use"]
)
def test_it_waits_for_the_program_to_import_the_sdk(script: str, tmp_path: Path) -> None:
    done = run([INSTRUMENT, sys.executable, "-c", dedent(script)], environment(), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_runs_where_it_cannot_trace(tmp_path: Path) -> None:
    with receiver(tmp_path / "received.jsonl") as received:
        env = environment(received.url)
        broken = (
            """
    import mcp_intercept._everywhere
    mcp_intercept._everywhere.intercept_all = None
"""
            + RUN
        )
        done = run([*program(tmp_path, broken), *DEMO_SERVER], env, tmp_path)
        assert (done.returncode, done.stdout) == (0, "Oslo: light snow, -3 °C\n")
        assert "MCP sessions are not traced" in done.stderr


# By hand


@pytest.fixture
def instrumentor() -> Generator[MCPInterceptInstrumentor, None, None]:
    instrumentor = MCPInterceptInstrumentor()
    init = vars(ClientSession)["__init__"]
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    assert vars(ClientSession)["__init__"] is init


async def ping(*middlewares: Any) -> None:
    async with wire() as (streams, _), ClientSession(*streams) as session:
        await intercept(session, *middlewares).send_ping() if middlewares else await session.send_ping()


@pytest.mark.anyio
async def test_it_traces_until_it_is_taken_back(instrumentor: MCPInterceptInstrumentor) -> None:
    telemetry = Telemetry()
    init = vars(ClientSession)["__init__"]
    for _ in range(2):
        async with wire() as (streams, _), ClientSession(*streams) as session:
            instrumentor.instrument(tracer_provider=telemetry.tracer_provider)
            assert vars(ClientSession)["__init__"] is not init
            await session.send_ping()
            await ping()
            instrumentor.uninstrument()
            assert vars(ClientSession)["__init__"] is init
            await session.send_ping()
            await ping()
    assert [span.name for span in telemetry.spans] == ["ping"] * 4


@pytest.mark.anyio
async def test_doing_it_twice_does_it_once(
    instrumentor: MCPInterceptInstrumentor, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry, other = Telemetry(), Telemetry()
    instrumentor.uninstrument()
    instrumentor.instrument(tracer_provider=telemetry.tracer_provider)
    MCPInterceptInstrumentor().instrument(tracer_provider=other.tracer_provider)
    await ping()
    instrumentor.uninstrument()
    instrumentor.uninstrument()
    assert ([span.name for span in telemetry.spans], other.spans) == (["ping"], ())
    assert len([record for record in caplog.records if "already" in record.message]) == 3


@pytest.mark.anyio
async def test_options_are_those_of_the_middleware(instrumentor: MCPInterceptInstrumentor) -> None:
    telemetry = Telemetry()
    instrumentor.instrument(
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
        capture_content=True,
        exclude=["ping"],
    )
    async with wire() as (streams, _), ClientSession(*streams) as session:
        await session.initialize()
        await session.send_ping()
        await session.call_tool("tool", {"city": "Oslo"})
    spans = {span.name: dict(span.attributes or {}) for span in telemetry.spans}
    assert [*spans] == ["initialize", "notifications/initialized", "tools/call tool", "tools/list"]
    assert json.loads(str(spans["tools/call tool"]["gen_ai.tool.call.arguments"])) == {"city": "Oslo"}
    points = telemetry.take_points()
    assert "mcp.client.session.duration" in {point.name for point in points}


@pytest.mark.anyio
async def test_a_middleware_of_the_users_own_for_the_same_provider_makes_no_second_span(
    instrumentor: MCPInterceptInstrumentor,
) -> None:
    telemetry, other = Telemetry(), Telemetry()
    instrumentor.instrument(tracer_provider=telemetry.tracer_provider)
    await ping(TracingMiddleware(tracer_provider=telemetry.tracer_provider))
    assert [span.name for span in telemetry.spans] == ["ping"]
    await ping(TracingMiddleware(tracer_provider=other.tracer_provider))
    assert [span.name for span in (*telemetry.spans[1:], *other.spans)] == ["ping", "ping"]


@pytest.mark.parametrize(("options", "error"), [({"exclude": 5}, InterceptError), ({"nothing": 5}, TypeError)])
def test_what_it_cannot_take_leaves_everything_as_it_was(
    options: dict[str, Any], error: type[Exception], instrumentor: MCPInterceptInstrumentor
) -> None:
    init = vars(ClientSession)["__init__"]
    with pytest.raises(error):
        instrumentor.instrument(**options)
    assert vars(ClientSession)["__init__"] is init
    instrumentor.instrument(tracer_provider=TracerProvider())
    assert instrumentor.is_instrumented_by_opentelemetry


def test_it_is_found_by_its_entry_point() -> None:
    [found] = entry_points(group="opentelemetry_instrumentor", name="mcp_intercept")
    assert found.load() is MCPInterceptInstrumentor


def test_it_instruments_what_the_package_needs() -> None:
    needed = [Requirement(requirement) for requirement in requires("mcp-intercept-sdk") or ()]
    [own] = map(Requirement, MCPInterceptInstrumentor().instrumentation_dependencies())
    assert [need.specifier for need in needed if need.name == own.name] == [own.specifier]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.instrumentor", None)
    monkeypatch.delitem(sys.modules, "mcp_intercept.instrumentation")
    with pytest.raises(MissingExtraError, match=r"mcp-intercept-sdk\[otel\]"):
        import_module("mcp_intercept.instrumentation")
