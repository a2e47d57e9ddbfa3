"""The clients of the official TypeScript SDK, with cassettes that are served. Need Node and the npm packages.

These are looked for in the folder that `MCP_INTERCEPT_NODE_MODULES` names, else where npm has installed for this
folder or for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any

import pytest

CLIENT = Path(__file__).with_name("client.mjs")
CASSETTES = Path(__file__).parent.parent / "cassettes"
LINE_1, LINE_2 = "@modelcontextprotocol/sdk", "@modelcontextprotocol/client"


@cache
def folders() -> list[Path]:
    """Where npm packages may be."""
    named = os.environ.get("MCP_INTERCEPT_NODE_MODULES")
    if named:
        return [Path(named).resolve()]
    npm = which("npm")
    if npm is None:
        return []
    asked = [subprocess.run([npm, "root", *where], capture_output=True, text=True) for where in ([], ["--global"])]
    return [Path(one.stdout.strip()) for one in asked if one.returncode == 0]


def client_of(package: str) -> list[str]:
    """The command that runs the client with a package."""
    node = which("node")
    if node is None:
        pytest.skip("node is not installed")
    for folder in folders():
        if (folder / package / "package.json").exists():
            return [node, str(CLIENT), str(folder), package]
    pytest.skip(f"{package} is not installed; name the node_modules that has it in MCP_INTERCEPT_NODE_MODULES")


@contextmanager
def target(transport: str, path: Path) -> Generator[list[str], None, None]:
    """What the client is to connect to."""
    command = [sys.executable, "-m", "mcp_intercept", "cassette", "serve", str(path)]
    if transport == "stdio":
        yield command
        return
    with subprocess.Popen(
        [*command, "--http", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            yield [process.stdout.readline().strip()]
        finally:
            process.terminate()
            assert process.stderr.read().count("No recorded answer") == 1


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("name", ["line1", "line2-2025", "line2-2026"])
@pytest.mark.parametrize("package", [LINE_1, LINE_2])
def test_a_client_of_the_typescript_sdk_is_served(package: str, name: str, transport: str) -> None:
    client = client_of(package)
    with target(transport, CASSETTES / f"{name}.mcp.jsonl") as what:
        done = subprocess.run([*client, *what], capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    seen: dict[str, Any] = json.loads(done.stdout)
    miss = seen.pop("miss")
    assert miss["code"] == -31404
    assert "No recorded answer to tools/call nothing" in miss["message"]
    assert seen.pop("unknown") in {0, -32602, -32603}
    is_modern = name == "line2-2026"
    assert seen == {
        "version": None if package == LINE_1 else "2026-07-28" if is_modern else "2025-11-25",
        "tools": ["add", "ask", "echo", "fail", "slow", "steps"],
        "add": "3",
        "reported": "there",
        "steps": [[1, 3], [2, 3], [3, 3]],
        "asked": "accept",
        "questions": ["How many? (0)", "How many? (1)"] if is_modern else ["How many?"],
        "has_failed": True,
        "memo": "remember",
        "prompt": "Hello Ann",
        "errors": [],
        "has_closed": True,
    }
