"""`--mcp-block`: tests that connect to nothing live."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


class Block:
    """Refuses live connections while tests run."""

    def __init__(self) -> None:
        self._is_live = False
        self._is_taped = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Have every transport led through here."""
        from mcp_intercept._sdk.reroute import reroute

        undo = reroute(self._check)
        try:
            return (yield)
        finally:
            undo()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Let tests pass that are marked so."""
        self._is_live = item.get_closest_marker("mcp_live") is not None
        self._is_taped = item.get_closest_marker("mcp_tape") is not None
        try:
            return (yield)
        finally:
            self._is_live = False

    def _check(self, transport: Any) -> None:
        from mcp_intercept._current import current_cassette
        from mcp_intercept._names import name_of
        from mcp_intercept._sdk.reroute import InProcess
        from mcp_intercept.errors import InterceptError

        __tracebackhide__ = True
        opened = getattr(getattr(transport, "func", None), "__name__", "")
        if self._is_live or isinstance(transport, InProcess) or opened == "create_client_server_memory_streams":
            return
        cassette = current_cassette()
        if getattr(cassette, "mode", None) == "off":
            way_out = "give its cassette a mode other than 'off'"
        elif cassette is not None:
            way_out = f"lead it through {cassette!r} with its transport(...) or everywhere=True"
        elif self._is_taped:
            way_out = (
                "open it in a fixture of function scope: one of a wider scope opens it before the test has its tape"
            )
        else:
            way_out = "record it and replay it with @pytest.mark.mcp_tape"
        raise InterceptError(
            f"--mcp-block allows no live connection, and {opened}() opens one to {name_of(transport)!r}; "
            f"{way_out}, or let it pass with @pytest.mark.mcp_live"
        )
