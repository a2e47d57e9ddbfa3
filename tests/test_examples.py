"""Every example runs, and shows what it is about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

SHOWN = {
    "allow_list.py": ["allowed, 4 tools", "refused: 'travel-desk' is not on the list: weather, news"],
    "bearer_token.py": ["Bergen: light snow", "tokens: token-1, token-2", "tenants: Bergen, Narvik, Oslo"],
    "coming_from_mcp_use.py": ["Calling tool forecast", "alice -> tools/call", "tools/list took", "Bergen:", "2 calls"],
    "per_session.py": ["hits: {'one': 2}", "Bergen: light snow", "refused: one has made its 2 calls"],
    "vendor_methods.py": ["London rain", "Rome unknown:"],
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_the_example_runs_and_shows_what_it_is_about(name: str) -> None:
    command = [sys.executable, str(EXAMPLES / name)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    for line in SHOWN[name]:
        assert line in run.stdout


def test_the_benchmark_runs() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.overhead", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=EXAMPLES.parent)
    assert run.returncode == 0, run.stderr
    assert "per layer" in run.stdout
