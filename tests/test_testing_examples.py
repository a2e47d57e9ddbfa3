"""The face of `mcp_intercept.testing`, and the examples in its docstrings, which run as they stand."""

from __future__ import annotations

import ast
import inspect
import re
from textwrap import dedent
from typing import Any

import anyio
import mcp
import pytest
from mcp import ClientSession

from mcp_intercept import connect, testing
from tests.wire import LINE_1

pytestmark = pytest.mark.anyio

FACE = ["Fault", "FaultMiddleware", "FaultRule", "Message", "MessageLog", "Received", "Script", "ScriptedServer"]


def documented() -> dict[str, Any]:
    things = {name: getattr(testing, name) for name in testing.__all__}
    for name, thing in [*things.items()]:
        for inner, value in vars(thing).items():
            function = getattr(value, "__func__", value)
            if not inner.startswith("_") and (inspect.isfunction(function) or isinstance(value, property)):
                things[f"{name}.{inner}"] = function
    return things


DOCUMENTED = documented()


def example_of(thing: Any) -> str | None:
    found = re.search(r"^Example::\n\n((?:    .*\n|\n)+)", f"{inspect.getdoc(thing)}\n", re.MULTILINE)
    return dedent(found[1]) if found else None


EXAMPLES = {name: code for name, thing in DOCUMENTED.items() if (code := example_of(thing))}


def test_the_face_is_exactly_this() -> None:
    assert testing.__all__ == FACE


def test_everything_public_has_a_docstring() -> None:
    assert [name for name, thing in DOCUMENTED.items() if not inspect.getdoc(thing)] == []


def test_every_class_has_an_example() -> None:
    assert [name for name in FACE if name not in EXAMPLES] == []


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_example_runs(name: str) -> None:
    namespace: dict[str, Any] = {
        **{public: getattr(testing, public) for public in testing.__all__},
        "ClientSession": ClientSession,
        "anyio": anyio,
        "connect": connect,
        "McpError": getattr(mcp, "McpError" if LINE_1 else "MCPError"),
    }
    code = compile(EXAMPLES[name], name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with anyio.fail_after(30):
        returned = eval(code, namespace)
        if inspect.isawaitable(returned):
            await returned
