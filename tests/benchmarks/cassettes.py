"""What recording and replaying cost, beside the bare SDK and others who record MCP, in one run.

    python -m tests.benchmarks.cassettes [--quick] [--peers]

Prints CPU time per call: the best of batches that are run in turn, and the middle one, with the garbage collector on,
as what a recording keeps is its business, too. What ends a recording is shared out among its calls.

With `--peers`, it compares what recording adds to a stdio session, in the client and whatever stands between it and the
server, with those of the others whose commands are on the path:

    pip install mcp-cassette mcp-rec mcp-recorder "starlette<1"
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from functools import partial
from importlib import import_module
from pathlib import Path
from time import monotonic, process_time, sleep
from typing import Any, NamedTuple, Protocol

import anyio
import mcp.types as types
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.memory import create_client_server_memory_streams

from mcp_intercept import use_cassette
from mcp_intercept._sdk.framing import frame_from, item_from
from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.journal import Journal
from mcp_intercept.recording.recorder import Recorder
from mcp_intercept.recording.recovery import recover
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.store import CassetteFile

ROOT = Path(__file__).parent.parent.parent
SERVE = [sys.executable, "-m", "tests.benchmarks.cassettes", "--serve"]

BAR_RECORDED = 60  # microseconds per small call, its share of the end included
BAR_SIZE = 2.5  # MB for 10,000 small calls
BAR_OPENED = 0.1  # seconds for 10,000 interactions
BAR_MEMORY = 5  # MB for the same, and while they are recorded
MANY = 10_000

SMALL, TEXT, JSON, CPU = "small", "100 KB of text", "100 KB of JSON", "CPU"
BARE, RECORDED, UNREDACTED, OURS = "bare", "recorded", "recorded, redaction=None", "ours"

Transport = AbstractAsyncContextManager[Any]


class Call(Protocol):
    """Calls the tool, and gives back what it says."""

    async def __call__(self, number: int, kind: str = ...) -> str: ...


# What is measured


def answer(kind: str, number: int) -> str:
    if kind == TEXT:
        return f"{number}: light snow over Oslo, -3 degrees\n" * (100_000 // 40)
    if kind == JSON:
        return json.dumps([{"id": number + row, "name": f"row {row}", "value": row / 4} for row in range(2300)])
    return f"{process_time()} seconds" if kind == CPU else f"answer {number}"


def make_server() -> Any:
    """A low-level server of either line, with a tool that says much or little."""
    server_type: Any = import_module("mcp.server.lowlevel").Server
    properties = {"number": {"type": "integer"}, "kind": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    tell = types.Tool.model_validate({"name": "tell", "inputSchema": schema})

    def told(arguments: Any) -> list[Any]:
        return [types.TextContent(type="text", text=answer(arguments["kind"], arguments["number"]))]

    if isinstance(types.ClientRequest, type):
        server = server_type("bench")

        async def list_tools() -> Any:
            return [tell]

        async def call_tool(name: str, arguments: Any) -> Any:
            return told(arguments)

        server.list_tools()(list_tools)
        server.call_tool()(call_tool)
        return server

    async def on_list_tools(context: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=[tell])

    async def on_call_tool(context: Any, params: Any) -> Any:
        return types.CallToolResult(content=told(params.arguments))

    return server_type("bench", on_list_tools=on_list_tools, on_call_tool=on_call_tool)


@asynccontextmanager
async def in_memory() -> AsyncGenerator[Any]:
    """The client's end of the streams to a server that runs in this process."""
    server = make_server()
    async with create_client_server_memory_streams() as (client, (read, write)), anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, read, write, server.create_initialization_options())
        yield client
        tasks.cancel_scope.cancel()


def over_stdio(*command: str) -> Transport:
    """A server in a process of its own, or what stands before it."""
    program, *args = command or SERVE
    # The SDK hands down a few variables only.
    environment = {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore", "PATH": os.environ.get("PATH", "")}
    return stdio_client(StdioServerParameters(command=program, args=args, cwd=ROOT, env=environment))


async def serve() -> None:
    """Be that server."""
    server = make_server()
    async with import_module("mcp.server.stdio").stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


@asynccontextmanager
async def calling(transport: Transport, kind: str = SMALL) -> AsyncGenerator[Call]:
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        await session.list_tools()  # else the SDK asks by itself

        async def call(number: int, kind: str = kind) -> str:
            result: Any = await session.call_tool("tell", {"number": number, "kind": kind})
            said: str = result.content[0].text
            return said

        yield call


# Calls in batches


class Figure:
    """CPU seconds per call, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[float] = []
        self.calls = 0
        self.end = 0.0
        """The share of each call in what came at the end."""

    @property
    def best(self) -> float:
        return min(self.batches)

    @property
    def middle(self) -> float:
        return statistics.median(self.batches)


async def make_calls(call: Call, orders: Any, reports: Any, figure: Figure) -> None:
    """Make calls when told to: in a task of its own, as what is sent in one context is taken for one script."""
    async for count in orders:
        started = process_time()
        for number in range(figure.calls, figure.calls + count):
            await call(number)
        figure.batches.append((process_time() - started) / count)
        figure.calls += count
        await reports.send(None)


async def compare(calls: Mapping[str, Call], batches: int, count: int) -> dict[str, Figure]:
    figures = {name: Figure() for name in calls}
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        reports, reported = anyio.create_memory_object_stream[None](1)
        stack.enter_context(reports)
        stack.enter_context(reported)
        orders: list[Any] = []
        for name, call in calls.items():
            order, ordered = anyio.create_memory_object_stream[int](1)
            stack.enter_context(order)
            stack.enter_context(ordered)
            orders.append(order)
            tasks.start_soon(make_calls, call, ordered, reports, figures[name])
        for _ in range(batches):
            for order in orders:
                await order.send(count)
                await reported.receive()
        tasks.cancel_scope.cancel()
    return figures


async def record(
    folder: Path, transport: Callable[[], Transport], kind: str, batches: int, count: int
) -> dict[str, Figure]:
    """The same calls, not recorded and recorded."""
    recordings = {name: ExitStack() for name in (RECORDED, UNREDACTED)}
    async with AsyncExitStack() as stack:
        calls = {BARE: await stack.enter_async_context(calling(transport(), kind))}
        for name, recording in recordings.items():
            options: dict[str, Any] = {} if name == RECORDED else {"redaction": None}
            cassette = recording.enter_context(use_cassette(path_of(folder, name), mode="rewrite", **options))
            recorded = cassette.transport(transport(), server="bench")
            calls[name] = await stack.enter_async_context(calling(recorded, kind))
        figures = await compare(calls, batches, count)
    for name, recording in recordings.items():
        started = process_time()
        recording.close()
        figures[name].end = (process_time() - started) / figures[name].calls
    return figures


def merged(rounds: list[dict[str, Figure]]) -> dict[str, Figure]:
    """One figure for the same of several rounds."""
    first, *others = rounds
    for name, figure in first.items():
        for other in others:
            figure.batches += other[name].batches
            figure.end = min(figure.end, other[name].end)
    return first


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name.partition(',')[0]}-{len(name)}.mcp.jsonl"


def met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def in_us(seconds: float) -> str:
    return f"{seconds * 1e6:8.1f} us"


def show_recorded(title: str, figures: Mapping[str, Figure], *, bar: float | None = None) -> None:
    bare = figures[BARE]
    print(f"\n{title:44}{'best':>11}{'added':>12}{'at the end':>12}{'together':>12}{'of middles':>12}{'to bare':>9}")
    for name, figure in figures.items():
        live = figure.best - bare.best
        middle = figure.middle - bare.middle + figure.end
        together = live + figure.end
        shares = "".join(f"{in_us(seconds):>12}" for seconds in (live, figure.end, together, middle))
        judged = f"   bar {bar} us: {met(together * 1e6 <= bar)}" if bar is not None and name == RECORDED else ""
        ratio = f"x{1 + together / bare.best:.3f}"
        print(f"  {name:42}{in_us(figure.best)}" + ("" if name == BARE else f"{shares}{ratio:>9}{judged}"))


def show_size(path: Path, calls: int) -> None:
    # The two lines that begin and end a file count little.
    size = path.stat().st_size / calls * MANY / 1e6
    print(f"  {MANY:,} small calls take {size:.2f} MB (of {calls:,})   bar {BAR_SIZE} MB: {met(size <= BAR_SIZE)}")


# Replaying


async def replay(folder: Path, recorded: Path, batches: int, count: int) -> None:
    """The calls of a recording, by a server of this process and by the cassette."""
    with use_cassette(recorded, mode="none") as cassette:
        async with AsyncExitStack() as stack:
            calls = {"live, in memory": await stack.enter_async_context(calling(in_memory()))}
            played = cassette.transport(in_memory(), server="bench")
            calls["replayed"] = await stack.enter_async_context(calling(played))
            figures = await compare(calls, batches, count)
    live, replayed = figures.values()
    print(f"\n{'Replaying small calls':44}{'best':>11}{'middle':>12}")
    for name, figure in figures.items():
        print(f"  {name:42}{in_us(figure.best)}{in_us(figure.middle):>12}")
    ratio = replayed.best / live.best
    print(f"  replayed to live: x{ratio:.3f}   bar below 1: {met(ratio < 1)}")


# Opening; each in a process of its own, which has read nothing before


def write_many(path: Path, count: int) -> None:
    """A cassette of calls of one tool, as recording writes them."""
    with path.open("w", encoding="utf-8", newline="\n") as file:

        def write(*lines: Any) -> None:
            file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)

        write({"format": "mcp-cassette", "version": 1})
        for n in range(1, count + 1):
            params = {"name": "tell", "arguments": {"number": n, "kind": SMALL}}
            result = {"content": [{"type": "text", "text": answer(SMALL, n)}], "isError": False}
            write({"n": n, "server": "bench", "request": "tools/call", "params": params}, {"n": n, "result": result})
        write({"end": True})


def resident() -> int:
    """Bytes of memory that this process has."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


async def open_it(path: Path, trace: bool) -> dict[str, float]:
    """Open a cassette, and ask it the first things: in messages, as the first call of a session costs more itself."""
    warm = path.with_name("warm.mcp.jsonl")
    write_many(warm, 1)
    CassetteFile(warm).close()
    if trace:
        tracemalloc.start()
    said: dict[str, float] = {}

    def held() -> int:
        return tracemalloc.get_traced_memory()[0] if trace else resident()

    before, started = held(), process_time()

    def note(name: str) -> None:
        said[f"{name}, seconds"] = process_time() - started
        said[f"{name}, bytes"] = held() - before

    with use_cassette(path, mode="none") as cassette:
        note("opened")
        async with cassette.transport(in_memory(), server="bench") as (read, write):
            for name, number in (("first call", MANY // 2), ("second call", MANY // 2 + 1)):
                params = {"name": "tell", "arguments": {"number": number, "kind": SMALL}}
                request = item_from(Frame(number, "tools/call", params))
                before, started = held(), process_time()
                await write.send(request)
                answered = frame_from(await read.receive())
                note(name)
                assert answered is not None
                assert answered.result is not None
    return said


def opening(folder: Path, rounds: int) -> None:
    path = folder / "many.mcp.jsonl"
    write_many(path, MANY)
    command = [sys.executable, "-m", "tests.benchmarks.cassettes", "--open", str(path)]
    said: list[dict[str, float]] = []
    for trace in [1] + [0] * rounds:
        ran = subprocess.run([*command, str(trace)], capture_output=True, text=True, check=True, cwd=ROOT)
        said.append(json.loads(ran.stdout))
    traced, *opened = said
    print(f"\n{f'Opening {MANY:,} interactions, calls of one tool':44}{'seconds':>11}{'traced':>12}{'resident':>12}")
    kept = 0.0
    for name in ("opened", "first call", "second call"):
        seconds = min(each[f"{name}, seconds"] for each in opened)
        in_mb = traced[f"{name}, bytes"] / 1e6, min(each[f"{name}, bytes"] for each in opened) / 1e6
        kept += max(in_mb)
        print(f"  {name:42}{seconds:11.4f}" + "".join(f"{mb:9.2f} MB" for mb in in_mb), end="")
        print(f"   bar {BAR_OPENED} s: {met(seconds <= BAR_OPENED)}" if name == "opened" else "")
    print(f"  together {kept:.1f} MB   bar {BAR_MEMORY} MB: {met(kept <= BAR_MEMORY)}")


# What a recording holds


def recording(folder: Path, calls: int) -> None:
    """What is in memory of a recording that goes on."""
    recorder = Recorder(Journal(folder / "held.mcp.jsonl"), Redactor(Redaction()), mode="once", timing=False)
    number = recorder.connect("bench")
    tracemalloc.start()
    for n in range(calls):
        arguments = {"number": n, "kind": SMALL}
        recorder.sent(number, Frame(n, "tools/call", {"name": "tell", "arguments": arguments}))
        content = [{"type": "text", "text": answer(SMALL, n)}]
        recorder.received(number, Frame(n, result={"content": content, "isError": False}))
    held = tracemalloc.get_traced_memory()[0] / calls * MANY / 1e6
    tracemalloc.stop()
    recorder.journal.discard()
    judged = f"   bar {BAR_MEMORY} MB: {met(held <= BAR_MEMORY)}"
    print(f"\nRecording {MANY:,} small calls holds {held:.1f} MB (of {calls:,}){judged}")


# Others


class Peer(NamedTuple):
    """One that records MCP: a process between a client and its server."""

    command: str
    arguments: Callable[[Path, int], list[str]]
    """How to record: by the file and a port."""
    over_http: bool = False
    """Whether clients reach it by a port rather than by stdio."""


PEERS = {
    "mcp-cassette": Peer("mcp-cassette", lambda file, port: ["record", "--cassette", str(file), "--", *SERVE]),
    "mcp-rec": Peer("mcp-rec", lambda file, port: ["record", "-o", str(file), "--", *SERVE]),
    "mcp-recorder": Peer(
        "mcp-recorder",
        lambda file, port: [
            *("record", "--target-stdio", " ".join(SERVE), "--port", str(port), "--output", str(file)),
        ],
        over_http=True,
    ),
}
# Writes down which process it has become, so that it can be killed.
PID = "pid"
TOLD = ["/bin/sh", "-c", 'echo $$ > "$0"; exec "$@"']


def find(command: str) -> str | None:
    beside = Path(sys.executable).parent
    return shutil.which(command, path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))


class Recording(NamedTuple):
    """What came of a number of calls."""

    seconds: float
    """CPU of client and proxy."""
    size: int
    """Bytes of the file."""
    kept: int
    """How many calls can be found in what is there."""


def cpu() -> float:
    resource: Any = import_module("resource")  # not on Windows
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return float(sum(each.ru_utime + each.ru_stime for each in used))


async def recorded_by(peer: Peer | None, calls: int, folder: Path, *, kill: bool) -> Recording:
    """Make calls through one of the others, or not recorded, and end it, or kill it."""
    file, pid = folder / "peer.json", folder / PID
    started = cpu()
    # What is killed takes its streams with it.
    with suppress(*((Exception,) if kill else ())), anyio.fail_after(120):
        async with AsyncExitStack() as stack:
            if peer is None:
                transport = over_stdio()
            else:
                port = free_port()
                command = [find(peer.command) or peer.command, *peer.arguments(file, port)]
                if peer.over_http:
                    pid.write_text(str(stack.enter_context(listening(command, port))))
                    transport = streamable_http_client(f"http://127.0.0.1:{port}/mcp")
                else:
                    transport = over_stdio(*TOLD, str(pid), *command)
            call = await stack.enter_async_context(calling(transport))
            for number in range(calls):
                await call(number)
            if kill and peer is not None:
                os.kill(int(pid.read_text()), signal.SIGKILL)
            else:
                started += await used_by_server(call)
    return look(folder, cpu() - started)


async def used_by_server(call: Call) -> float:
    """CPU seconds, which vary more from run to run than all that is looked for."""
    return float((await call(0, CPU)).split()[0])


def look(folder: Path, seconds: float) -> Recording:
    contents = [path.read_bytes() for path in folder.iterdir() if path.name != PID]
    kept = {number for content in contents for number in re.findall(rb"answer (\d+)", content)}
    return Recording(seconds, sum(map(len, contents)), len(kept))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def listening(command: list[str], port: int) -> Generator[int]:
    """A process that listens on a port, and is asked to end; the value is its id."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        try:
            deadline = monotonic() + 30
            while not is_open(port):
                if process.poll() is not None or monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not listen")
                sleep(0.02)
            yield process.pid
            process.send_signal(signal.SIGINT)
            process.wait(20)
        finally:
            process.kill()


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def recorded_by_us(calls: int, folder: Path) -> Recording:
    path = folder / "ours.mcp.jsonl"
    started = cpu()
    with use_cassette(path, mode="rewrite") as cassette:
        async with calling(cassette.transport(over_stdio(), server="bench")) as call:
            for number in range(calls):
                await call(number)
            started += await used_by_server(call)
    return Recording(cpu() - started, path.stat().st_size, calls)


async def killed(calls: int, path: Path) -> None:
    """Record, and be killed; in a process of its own, as ours is the client's."""
    with use_cassette(path, mode="rewrite") as cassette:
        async with calling(cassette.transport(in_memory(), server="bench")) as call:
            for number in range(calls):
                await call(number)
            os.kill(os.getpid(), signal.SIGKILL)


def kept_by_us(calls: int, folder: Path) -> int:
    path = folder / "killed.mcp.jsonl"
    command = [sys.executable, "-m", "tests.benchmarks.cassettes", "--killed", str(calls), str(path)]
    subprocess.run(command, check=False, capture_output=True, cwd=ROOT)
    recover(path.with_name(f"{path.name}.part"), path)
    file = CassetteFile(path)
    try:
        return sum(is_answered(interaction) for interaction in file)
    finally:
        file.close()


def is_answered(interaction: Interaction) -> bool:
    return interaction.method == "tools/call" and interaction.result is not None


def peers(few: int, many: int, rounds: int) -> None:
    """What recording adds in all processes: the difference of many calls to few, so that starting is left out."""
    found = {name: peer for name, peer in PEERS.items() if find(peer.command) is not None}
    for name in PEERS:
        if name not in found:
            print(f"  {name}: not found")
    record_with: dict[str, Callable[[int, Path], Awaitable[Recording]]] = {
        BARE: partial(recorded_by, None, kill=False),
        OURS: recorded_by_us,
    }
    for name, peer in found.items():
        record_with[name] = partial(recorded_by, peer, kill=False)
    results: dict[str, dict[int, list[Recording]]] = {name: {few: [], many: []} for name in record_with}
    for _ in range(rounds):
        for name in [*record_with]:
            for count in (few, many):
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        results[name][count].append(anyio.run(record_with[name], count, Path(folder)))
                    except Exception as error:
                        print(f"  {name}: does not run here ({describe(error)})")
                        del record_with[name], results[name]
                        break
    seconds = {
        name: (min(of[many]).seconds - min(of[few]).seconds) / (many - few) for name, of in results.items() if of[many]
    }
    title = f"Recording over stdio, {many:,} small calls (client and proxy)"
    print(f"\n{title:56}{'per call':>11}{'added':>14}{'10,000 calls':>14}{'kept when killed':>20}")
    for name, per_call in seconds.items():
        added = per_call - seconds[BARE]
        row = f"  {name:54}{in_us(per_call)}"
        if name != BARE:
            small, large = results[name][few][0], results[name][many][0]
            size = (large.size - small.size) / (many - few) * MANY / 1e6
            with tempfile.TemporaryDirectory() as folder:
                if name == OURS:
                    kept = kept_by_us(few * 10, Path(folder))
                else:
                    killing = partial(recorded_by, found[name], few * 10, Path(folder), kill=True)
                    kept = anyio.run(killing).kept
            row += f"{in_us(added):>14}{size:11.2f} MB{f'{kept} of {few * 10}':>20}"
        print(row)


def describe(error: BaseException) -> str:
    while inside := getattr(error, "exceptions", ()):
        error = inside[0]
    return f"{type(error).__name__}: {error}"


# All together


def run(folder: Path, *, quick: bool, with_peers: bool) -> None:
    # So that a full run records 10,000 small calls.
    batches, count = (2, 5) if quick else (50, 200)
    figures = anyio.run(record, folder, in_memory, SMALL, batches, count)
    show_recorded("Recording in memory, small calls", figures, bar=BAR_RECORDED)
    recorded = path_of(folder, RECORDED)
    show_size(recorded, figures[RECORDED].calls)
    anyio.run(replay, folder, recorded, batches, count)

    # How two processes wake each other is another thing in each session, for as long as that lasts.
    rounds, batches, count = (1, 1, 5) if quick else (5, 15, 50)
    figures = merged([anyio.run(record, folder, over_stdio, SMALL, batches, count) for _ in range(rounds)])
    show_recorded("Recording over stdio, small calls (client)", figures, bar=BAR_RECORDED)
    for kind in (TEXT, JSON):
        figures = anyio.run(record, folder, in_memory, kind, *((1, 2) if quick else (8, 5)))
        show_recorded(f"Recording in memory, {kind}", figures)
        if not quick:  # as each of its three servers takes a second to start
            figures = anyio.run(record, folder, over_stdio, kind, 8, 5)
            show_recorded(f"Recording over stdio, {kind} (client)", figures)

    recording(folder, 100 if quick else MANY)
    opening(folder, 1 if quick else 5)
    if with_peers:
        peers(*((2, 5, 1) if quick else (20, 2000, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that it runs; the figures mean nothing")
    parser.add_argument("--peers", action="store_true", help="compare with others, where they are installed")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--open", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--killed", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        anyio.run(serve)
    elif options.open is not None:
        path, trace = options.open
        print(json.dumps(anyio.run(open_it, Path(path), trace == "1")))
    elif options.killed is not None:
        calls, path = options.killed
        anyio.run(killed, int(calls), Path(path))
    else:
        print(f"mcp {importlib.metadata.version('mcp')}, Python {sys.version.split()[0]}, asyncio; CPU time per call")
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), quick=options.quick, with_peers=options.peers)


if __name__ == "__main__":
    main()
