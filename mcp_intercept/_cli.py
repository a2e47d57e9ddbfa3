"""The command `mcp-intercept`.

Each subcommand has one function that describes it and one that runs it and returns an exit code. What only a
subcommand needs is imported when it runs, so that `--help` is fast and works without the extras.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from mcp_intercept.errors import InterceptError, MissingExtraError

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 when whoever reads the output has left; 2 when the call or the installation is to be
        changed, which standard error explains; 130 after Ctrl-C.

    Raises:
        SystemExit: By `argparse`, for arguments it refuses, `--help` and `--version`.
    """
    try:
        try:
            arguments = _parser().parse_args(argv)
            return arguments.run(arguments)
        finally:
            # A reader that has left (`| head`) is noticed here, and not when the interpreter ends.
            sys.stdout.flush()
    except InterceptError as error:
        print(f"mcp-intercept: {error}", file=sys.stderr)
        return _MISUSED
    except BrokenPipeError:
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="mcp-intercept", description="Middleware for MCP clients.")
    parser.add_argument("--version", action="version", version=_version())
