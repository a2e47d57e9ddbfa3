"""Every async test runs on both event loops; sessions and servers come from `tests.wire` and `tests.server`."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend
