"""What tracing costs, beside the bare SDK and others who trace MCP clients, in one run.

    python -m tests.benchmarks.tracing [--quick]

Prints CPU time per call of a tool, the best of interleaved batches, and the ratio to the bare SDK without a provider.
A process can set the global provider once, and instrumentations change the SDK for good: each has a process of its
own, and they are asked for a batch in turn. Client and server are in one process, and what the server's side of an
instrumentation costs, is part of the figure. Without opentelemetry-sdk, only what needs no provider is measured, and
others are measured where they are installed:

    pip install opentelemetry-sdk fastmcp logfire openinference-instrumentation-mcp opentelemetry-instrumentation-mcp
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import anyio
import mcp.types as types
from mcp import ClientSession
from mcp.shared.memory import create_client_server_memory_streams
from opentelemetry import metrics, trace

from mcp_intercept import intercept
from mcp_intercept.middleware import TracingMiddleware

NO_PROVIDER, SAMPLED_OUT, RECORDED = "no provider", "sampled out", "recorded"
SITUATIONS = (NO_PROVIDER, SAMPLED_OUT, RECORDED)
PAYLOADS = {"small": "x", "100 KB": "x" * 100_000}

# A batch is so many calls, or as many as take so long.
CALLS = 50
BATCH_SECONDS = 0.2
BATCHES = 40

TRACED = "TracingMiddleware"
BARS = {NO_PROVIDER: 1.05, SAMPLED_OUT: 1.15, RECORDED: 1.4}

Call = Callable[[str], Awaitable[Any]]
Opening = Callable[[], Awaitable[Any]]


# What is measured


def make_server() -> Any:
    """A low-level server of either line, with a tool that says what it is told."""
    server_type: Any = import_module("mcp.server.lowlevel").Server
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    echo = types.Tool.model_validate({"name": "echo", "inputSchema": schema})

    if isinstance(types.ClientRequest, type):
        server = server_type("bench")

        async def list_tools() -> Any:
            return [echo]

        async def call_tool(name: str, arguments: Any) -> Any:
            return [types.TextContent(type="text", text=arguments["text"])]

        server.list_tools()(list_tools)
        server.call_tool()(call_tool)
        return server

    async def on_list_tools(context: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=[echo])

    async def on_call_tool(context: Any, params: Any) -> Any:
        return types.CallToolResult(content=[types.TextContent(type="text", text=params.arguments["text"])])

    return server_type("bench", on_list_tools=on_list_tools, on_call_tool=on_call_tool)


@asynccontextmanager
async def serving() -> AsyncGenerator[Any]:
    """The client's end of the streams to a server that runs."""
    server = make_server()
    async with create_client_server_memory_streams() as (client, (read, write)), anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, read, write, server.create_initialization_options())
        yield client
        tasks.cancel_scope.cancel()


async def calling(session: Any) -> Call:
    await session.initialize()
    await session.list_tools()  # else the SDK asks by itself

    async def call(text: str) -> Any:
        return await session.call_tool("echo", {"text": text})

    return call


async def pass_through(context: Any, call_next: Any) -> Any:
    return await call_next(context)


async def ours(stack: AsyncExitStack, situation: str) -> dict[str, Call]:
    """The bare SDK, and the same wrapped."""
    layers: dict[str, Any] = {"bare": None, "a layer that does nothing": pass_through, TRACED: TracingMiddleware()}
    if situation == NO_PROVIDER and has_otel_sdk():
        for name in (SAMPLED_OUT, RECORDED):
            tracer_provider, meter_provider = make_providers(name)
            layers[f"{TRACED}, providers of its own, {name}"] = TracingMiddleware(
                tracer_provider=tracer_provider, meter_provider=meter_provider
            )
    if situation == RECORDED:
        layers[f"{TRACED}, content captured"] = TracingMiddleware(capture_content=True)
    calls: dict[str, Call] = {}
    for name, layer in layers.items():
        session = ClientSession(*await stack.enter_async_context(serving()))
        await stack.enter_async_context(session)
        calls[name] = await calling(session if layer is None else intercept(session, layer))
    return calls


async def bare(stack: AsyncExitStack, situation: str) -> dict[str, Call]:
    """The bare SDK, in a process where nothing else was ever made."""
    session = await stack.enter_async_context(ClientSession(*await stack.enter_async_context(serving())))
    return {"bare": await calling(session)}


async def traceloop(stack: AsyncExitStack, situation: str) -> dict[str, Call]:
    import_module("opentelemetry.instrumentation.mcp").McpInstrumentor().instrument()
    return {"traceloop": (await bare(stack, situation))["bare"]}


async def logfire(stack: AsyncExitStack, situation: str) -> dict[str, Call]:
    import_module("logfire").instrument_mcp()
    return {"logfire": (await bare(stack, situation))["bare"]}


async def openinference(stack: AsyncExitStack, situation: str) -> dict[str, Call]:
    package = import_module("openinference.instrumentation.mcp")
    package.MCPInstrumentor().instrument()
    # It knows stdio and HTTP; what it does to their streams, is done to these.
    read, write = await stack.enter_async_context(serving())
    read, write = package.InstrumentedStreamReader(read), package.InstrumentedStreamWriter(write)
    return {"openinference": await calling(await stack.enter_async_context(ClientSession(read, write)))}


async def fastmcp(stack: AsyncExitStack, situation: str) -> dict[str, Call]:
    transports = import_module("fastmcp.client.transports")

    class InMemory(transports.ClientTransport):  # type: ignore[misc,name-defined]
        @asynccontextmanager
        async def connect_session(self, *, transport_options: Any = None, **options: Any) -> AsyncGenerator[Any]:
            async with serving() as streams, ClientSession(*streams, **options) as session:
                yield session

    options = {} if isinstance(types.ClientRequest, type) else {"mode": "legacy"}
    client = await stack.enter_async_context(import_module("fastmcp.client").Client(InMemory(), **options))
    await client.list_tools()

    async def call(text: str) -> Any:
        return await client.call_tool_mcp("echo", {"text": text})

    return {"the client of fastmcp": call}


class Candidate(NamedTuple):
    module: str
    distribution: str
    set_up: Callable[[AsyncExitStack, str], Awaitable[dict[str, Call]]]


CANDIDATES = {
    "bare": Candidate("mcp", "mcp", bare),
    "ours": Candidate("mcp_intercept", "mcp-intercept-sdk", ours),
    "openinference": Candidate("openinference", "openinference-instrumentation-mcp", openinference),
    "traceloop": Candidate("opentelemetry.instrumentation", "opentelemetry-instrumentation-mcp", traceloop),
    "fastmcp": Candidate("fastmcp", "fastmcp", fastmcp),
    "logfire": Candidate("logfire", "logfire", logfire),
}


# Providers


def has_otel_sdk() -> bool:
    with suppress(ImportError):
        return importlib.util.find_spec("opentelemetry.sdk.trace") is not None
    return False


class Dropped:
    """An exporter that has nowhere to send to."""

    def export(self, spans: Any) -> Any:
        return import_module("opentelemetry.sdk.trace.export").SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def make_providers(situation: str) -> tuple[Any, Any]:
    sdk_trace = import_module("opentelemetry.sdk.trace")
    sampling = import_module("opentelemetry.sdk.trace.sampling")
    sdk_metrics = import_module("opentelemetry.sdk.metrics")
    exports = import_module("opentelemetry.sdk.metrics.export")
    sampler = sampling.ALWAYS_OFF if situation == SAMPLED_OUT else sampling.ALWAYS_ON
    tracer_provider = sdk_trace.TracerProvider(sampler=sampler)
    tracer_provider.add_span_processor(dropping())
    return tracer_provider, sdk_metrics.MeterProvider(metric_readers=[exports.InMemoryMetricReader()])


def dropping() -> Any:
    return import_module("opentelemetry.sdk.trace.export").BatchSpanProcessor(Dropped())


def provide(situation: str, name: str) -> None:
    """Set the global providers."""
    if situation == NO_PROVIDER:
        return
    if name == "logfire":
        package = import_module("logfire")
        package.configure(
            send_to_logfire=False,
            console=False,
            additional_span_processors=[dropping()],
            metrics=package.MetricsOptions(
                additional_readers=[import_module("opentelemetry.sdk.metrics.export").InMemoryMetricReader()]
            ),
            sampling=package.SamplingOptions(head=0.0 if situation == SAMPLED_OUT else 1.0),
        )
        return
    tracer_provider, meter_provider = make_providers(situation)
    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(meter_provider)


# A process of one candidate in one situation: is told what to measure, line by line, and answers likewise


async def work(name: str, situation: str, answers: Any) -> None:
    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    async with AsyncExitStack() as stack:
        try:
            provide(situation, name)
            calls = await CANDIDATES[name].set_up(stack, situation)
            for call in calls.values():
                for payload in PAYLOADS.values():
                    await call(payload)
        except Exception as error:
            answer({"failed": f"{type(error).__name__}: {error}"})
            return
        answer({"measures": [*calls]})
        flush: Any = getattr(trace.get_tracer_provider(), "force_flush", None)
        while line := sys.stdin.readline():
            variant, payload, count = json.loads(line)
            answer(await measure(partial(calls[variant], PAYLOADS[payload]), count, flush))


async def measure(once: Opening, count: int, flush: Any) -> float:
    """CPU seconds per call."""
    gc.collect()
    gc.disable()
    started = process_time()
    for _ in range(count):
        await once()
    if flush is not None:
        flush()  # what exporting costs is due, too
    seconds = (process_time() - started) / count
    gc.enable()
    return seconds


class Worker:
    """Such a process, seen from outside."""

    def __init__(self, name: str, situation: str, stack: ExitStack) -> None:
        self.name = name
        self.situation = situation
        command = [sys.executable, "-m", "tests.benchmarks.tracing", "--work", name, situation]
        self.errors = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115 - the stack closes it
        self.process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                cwd=Path(__file__).parent.parent.parent,
                # Of two processes, none has the luckier dicts.
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        )
        stack.callback(self.process.kill)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"the process of {self.name}, {self.situation}, ended: {self.errors.read()}")
        return json.loads(line)

    def measure(self, variant: str, payload: str, calls: int) -> float:
        assert self.process.stdin is not None
        print(json.dumps([variant, payload, calls]), file=self.process.stdin, flush=True)
        seconds: float = self.answer()
        return seconds


# All together


class Figure(NamedTuple):
    """What is measured: which process, which variant there, and which payload."""

    name: str
    situation: str
    variant: str
    payload: str


def compare(workers: Iterable[Worker], batches: int, calls: int) -> dict[Figure, float]:
    """CPU seconds per call: the best of batches, which are run in turn."""
    measured: dict[Figure, Worker] = {}
    for worker in workers:
        answer = worker.answer()
        if "failed" in answer:
            print(f"  {worker.name}, {worker.situation}: does not run here ({answer['failed']})")
        for variant in answer.get("measures", ()):
            for payload in PAYLOADS:
                measured[Figure(worker.name, worker.situation, variant, payload)] = worker
    figures = dict.fromkeys(measured, float("inf"))
    for _ in range(batches):
        for figure, worker in measured.items():
            count = min(calls, max(3, int(BATCH_SECONDS / figures[figure])))
            seconds = worker.measure(figure.variant, figure.payload, count)
            figures[figure] = min(figures[figure], seconds)
    return figures


def show(figures: Mapping[Figure, float]) -> None:
    for payload in PAYLOADS:
        title = f"Arguments and result: {payload}"
        print(f"\n{title:56}{'per call':>13}{'added':>12}{'to bare':>11}{'to bare without':>18}")
        base = figures[Figure("bare", NO_PROVIDER, "bare", payload)]
        for situation in SITUATIONS:
            rows = {f: s for f, s in figures.items() if f.situation == situation and f.payload == payload}
            if not rows:
                continue
            print(f"  {situation}")
            alone = rows.pop(Figure("bare", situation, "bare", payload), base)
            print(row("bare, a process of its own", alone, alone, base))
            for figure, seconds in rows.items():
                # Where there is one in the same process, it is the better measure.
                beside = rows.get(Figure(figure.name, situation, "bare", payload), alone)
                bar = BARS.get(situation) if figure.variant == TRACED else None
                print(row(figure.variant, seconds, beside, base) + ("" if bar is None else f"   bar x{bar}"))


def row(name: str, seconds: float, beside: float, base: float) -> str:
    added = (seconds - beside) * 1e6
    ratios = f"{f'x{seconds / beside:.3f}':>11}{f'x{seconds / base:.3f}':>18}"
    return f"    {name:52}{seconds * 1e6:10.1f} us{added:+9.1f} us{ratios}"


def show_sizes(figures: Mapping[Figure, float]) -> None:
    """What is added must not depend on the size of what is said."""
    print("\nAdded to the bare SDK in the same process" + "".join(f"{payload:>14}" for payload in PAYLOADS))
    for figure in figures:
        if figure.name == "ours" and figure.variant != "bare" and figure.payload == "small":
            added = [
                figures[figure._replace(payload=payload)] - figures[figure._replace(payload=payload, variant="bare")]
                for payload in PAYLOADS
            ]
            name = f"{figure.situation}: {figure.variant}"
            print(f"  {name:72}" + "".join(f"{seconds * 1e6:+8.1f} us" for seconds in added))


def run(*, quick: bool) -> None:
    installed = [name for name, candidate in CANDIDATES.items() if is_installed(candidate)]
    situations = SITUATIONS if has_otel_sdk() else (NO_PROVIDER,)
    if situations != SITUATIONS:
        print("  opentelemetry-sdk: not installed, so there is no provider")
    for name, candidate in CANDIDATES.items():
        if name not in installed:
            print(f"  {name}: not installed ({candidate.distribution})")
    # To see that it runs, those who trace need to run once.
    wanted = [
        (name, situation)
        for situation in situations
        for name in installed
        if not quick or name == "ours" or situation == (NO_PROVIDER if name == "bare" else RECORDED)
    ]
    with ExitStack() as stack:
        workers = [Worker(name, situation, stack) for name, situation in wanted]
        figures = compare(workers, *((1, 3) if quick else (BATCHES, CALLS)))
    show(figures)
    show_sizes(figures)


def is_installed(candidate: Candidate) -> bool:
    try:
        version = importlib.metadata.version(candidate.distribution)
        found = importlib.util.find_spec(candidate.module) is not None
    except ImportError:
        return False
    if found:
        print(f"  {candidate.distribution} {version}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that it runs; the figures mean nothing")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is None:
        print(f"mcp {importlib.metadata.version('mcp')}, Python {sys.version.split()[0]}, asyncio; CPU time per call")
        run(quick=options.quick)
        return
    # What others print is no answer.
    with os.fdopen(os.dup(1), "w") as answers, warnings.catch_warnings():
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        name, situation = options.work
        anyio.run(work, name, situation, answers)


if __name__ == "__main__":
    main()
