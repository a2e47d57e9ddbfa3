"""A real server that runs on either SDK line, in this process, over stdio, or over streamable HTTP on loopback.

python -m tests.server                 speaks stdio
python -m tests.server --http PORT     listens on 127.0.0.1
python -m tests.server --sse PORT      the same with the older HTTP+SSE transport
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal

import anyio
from pydantic import BaseModel

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver import MCPServer as Server
else:
    try:
        from mcp.server.mcpserver import Context
        from mcp.server.mcpserver import MCPServer as Server
    except ImportError:
        from mcp.server.fastmcp import Context
        from mcp.server.fastmcp import FastMCP as Server

ROOT = Path(__file__).parent.parent
STDIO = [sys.executable, str(Path(__file__).resolve())]


class Number(BaseModel):
    number: int


def make_server() -> Any:
    """A `FastMCP` (line 1) or `MCPServer` (line 2) with one of everything."""
    server = Server("tests", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def echo(text: str) -> str:
        """Say it again."""
        return text

    @server.tool()
    def fail() -> str:
        """Fail."""
        raise ValueError("no luck")

    @server.tool()
    async def slow(seconds: float) -> str:
        """Take a while."""
        await anyio.sleep(seconds)
        return "at last"

    @server.tool()
    async def steps(count: int, ctx: Context) -> str:
        """Report progress, step by step."""
        for step in range(count):
            await ctx.report_progress(step + 1, count)
        return "there"

    @server.tool()
    async def ask(ctx: Context) -> str:
        """Ask the user."""
        answer = await ctx.elicit("How many?", Number)
        return answer.action

    @server.resource("memo://1")
    def memo() -> str:
        """A memo."""
        return "remember"

    @server.resource("memo://{number}")
    def memos(number: str) -> str:
        """Any memo."""
        return number

    @server.prompt()
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"Hello {name}"

    return server


@contextmanager
def http_server(transport: Literal["http", "sse"] = "http") -> Generator[str, None, None]:
    """Run the server in a process of its own; the value is its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*STDIO, f"--{transport}", str(port)]
    # Line 1's server reports on stderr that a client has left.
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, "the server ended"
                    assert monotonic() < deadline, "the server does not listen"
                    sleep(0.02)
            yield f"http://127.0.0.1:{port}/{'mcp' if transport == 'http' else 'sse'}"
        finally:
            process.terminate()


def main() -> None:
    server = make_server()
    if len(sys.argv) == 1:
        server.run()
        return
    import uvicorn

    app = server.sse_app() if "--sse" in sys.argv else server.streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[-1]), log_level="error")


if __name__ == "__main__":
    main()
