"""The command `mcp-intercept`.

Each subcommand has one function that describes it and one that runs it and returns an exit code. What only a
subcommand needs is imported when it runs, so that `--help` is fast and works without the extras.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mcp_intercept._cassette_cli.parser import describe as describe_cassette
from mcp_intercept.errors import InterceptError, MissingExtraError

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage] - argparse has no other name for it

_OK, _FAILED, _MISUSED, _INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 when whoever reads the output has left; 2 when the call or the installation has to be
        changed, which standard error explains; 130 after Ctrl-C.

    Raises:
        SystemExit: By `argparse`, for `--help`, `--version` and arguments that it refuses.
    """
    try:
        try:
            arguments = _parser().parse_args(argv)
            code: int = arguments.run(arguments)
            return code
        finally:
            # A reader who has left (`| head`) is noticed here rather than when the interpreter ends.
            if not sys.stdout.closed:  # as a server of line 1 leaves it
                sys.stdout.flush()
    except InterceptError as error:
        sys.stderr.write(f"mcp-intercept: {error}\n")
        return _MISUSED
    except BrokenPipeError:
        # What is still buffered has nowhere to go, and Python would complain of that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="mcp-intercept",
        description="Middleware for MCP clients: see, shape, trace and record what an agent says to its MCP servers.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-intercept {_version()} (mcp {version('mcp')})")

    def run(arguments: Namespace) -> int:
        parser.error("which command? try: mcp-intercept demo")

    parser.set_defaults(run=run)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _describe_demo(commands)
    _describe_demo_server(commands)
    describe_cassette(commands)
    return parser


def _version() -> str:
    try:
        return version("mcp-intercept-sdk")
    except PackageNotFoundError:
        return "(not installed)"


def _require(module: str, feature: str, extra: str) -> None:
    """Explain what to install where a subcommand's module is not there."""
    if find_spec(module) is None:
        raise MissingExtraError(feature, extra)


def _describe_demo(commands: _SubParsersAction[ArgumentParser]) -> None:
    summary = "see a client talk to a server, on a timeline"
    details = (
        "Start a small MCP server that comes with this package, talk to it over stdio through an intercepted session, "
        "and print each message that passed the chain: when it started, how long it took, and how it ended. "
        "Takes about two seconds; touches neither the network nor any file."
    )
    demo = commands.add_parser("demo", help=summary, description=details)
    demo.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio", help="the event loop to run on")
    demo.set_defaults(run=_run_demo)


def _describe_demo_server(commands: _SubParsersAction[ArgumentParser]) -> None:
    summary = "the server of the demo by itself, on standard input and output: something to connect to"
    commands.add_parser("demo-server", help=summary, description=summary).set_defaults(run=_run_demo_server)


def _run_demo_server(arguments: Namespace) -> int:
    from mcp_intercept._demo.server import make_server

    make_server().run()
    return _OK


def _run_demo(arguments: Namespace) -> int:
    _require("rich", "mcp-intercept demo", "cli")
    if find_spec(arguments.loop) is None:
        raise InterceptError(f"{arguments.loop} is not installed: pip install {arguments.loop}")
    from mcp_intercept._demo.script import run

    run(arguments.loop)
    return _OK
