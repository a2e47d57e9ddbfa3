"""What the command line, the environment and the configuration file ask for."""

from __future__ import annotations

import os
from typing import Final

import pytest

MODES: Final = ("none", "once", "new_episodes", "rewrite", "verify", "off")
"""Those of `use_cassette()`, which is not imported for `--help`."""
UNUSED: Final = ("ignore", "warn", "fail")
MODE_VARIABLE: Final = "MCP_INTERCEPT_CASSETTE_MODE"
"""What `use_cassette()` looks at where it is given no mode."""


def mode_of(config: pytest.Config) -> str:
    """What cassettes do where tests do not say it, or an empty string."""
    return str(config.getoption("mcp_record") or os.environ.get(MODE_VARIABLE) or config.getini("mcp_record"))


def is_blocking(config: pytest.Config) -> bool:
    """Whether no connection may be live."""
    return bool(config.getoption("mcp_block") or config.getini("mcp_block"))


def unused_of(config: pytest.Config) -> str:
    """What to do about what no test needs."""
    return str(config.getoption("mcp_unused") or config.getini("mcp_unused") or "ignore")


def is_chosen(config: pytest.Config) -> bool:
    """Whether the command line asks for some of the tests in its files."""
    chosen = [getattr(config.option, name, None) for name in ("keyword", "markexpr", "lf", "deselect", "collectonly")]
    return any(chosen) or any("::" in arg for arg in config.args)
