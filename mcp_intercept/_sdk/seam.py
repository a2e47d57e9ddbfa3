"""What a line's code needs to know of the wrapper it serves."""

from __future__ import annotations

from typing import Any, Protocol


class InterceptionSeam(Protocol):
    """The state behind a `CallbackClientSession`, as `line1` and `line2` use it."""

    inner: Any
    """The wrapped session."""

    async def intercept_raw(self, session: Any, request: Any, result_type: Any, seconds: Any, send: Any) -> Any:
        """Pass a request that does not go through `send_request` down the chain."""
        ...
