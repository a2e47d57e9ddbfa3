"""Every async test runs on both event loops; sessions and servers come from `tests.wire` and `tests.server`."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine is says nothing of what it runs. With `repeatable`, as tox has it, the same examples are tried
# each time, so that what was green stays so; others are tried by the runs of those who change something.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("unhurried"), derandomize=True)
settings.load_profile("unhurried")

# In the background of a script Ctrl-C is ignored, and so it would be by the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend
