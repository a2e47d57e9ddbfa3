"""What a line's code needs to know of the wrappers it serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mcp_intercept._context import Kind


class InterceptionSeam(Protocol):
    """The state behind a `CallbackClientSession`, as `line1` and `line2` use it."""

    inner: Any
    """The wrapped session."""

    below: Any
    """What the chain ends in."""

    async def intercept_raw(self, session: Any, request: Any, result_type: Any, seconds: Any, send: Any) -> Any:
        """Pass a request that does not go through `send_request` down the chain."""
        ...


class IncomingSeam(Protocol):
    """What takes part in receiving, as `line1` and `line2` use it."""

    @property
    def owner(self) -> Any:
        """The object on which the SDK's code runs."""
        ...

    def wants(self, kind: Kind, method: str) -> bool:
        """Whether anybody has a use for such a message."""
        ...

    def is_known(self, kind: Kind, method: str) -> bool:
        """Whether a server may send such a message; its params are then a model."""
        ...

    def read_params(self, kind: Kind, method: str, params: Any) -> Any:
        """The typed params of a message, from those of the wire."""
        ...

    async def answer(
        self,
        method: str,
        params: Any,
        deliver: Callable[[Any], Awaitable[Any]],
        *,
        jsonrpc_id: str | int | None = None,
        origin: object = None,
        within_call: bool = False,
    ) -> Any:
        """Pass a request through the chains."""
        ...

    async def tell(
        self,
        method: str,
        params: Any,
        deliver: Callable[[Any], Awaitable[Any]],
        *,
        origin: object = None,
    ) -> None:
        """Pass a notification through the chains."""
        ...


class TapSeam(Protocol):
    """What reads along on the wire."""

    def streams(self, read: Any, write: Any) -> tuple[Any, Any]:
        """The same two streams, read along."""
        ...
