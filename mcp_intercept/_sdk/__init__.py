"""All knowledge of the two SDK lines; the only place that imports `mcp`.

`line1` and `line2` offer the same names; the one that fits the installed SDK is re-exported from here. `line1` goes
when `mcp` 1.x does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import mcp.types as types
from mcp import ClientSession

# Line 1 wraps each message in a root model, line 2 passes the message itself: the difference met most often here.
LINE: Literal[1, 2] = 1 if isinstance(cast("object", types.ClientRequest), type) else 2

if TYPE_CHECKING or LINE == 2:
    from mcp_intercept._sdk.line2 import (
        VERSION_KEY,
        HttpLink,
        SessionSeam,
        handshake,
        is_running,
        message_of,
        to_seconds,
        to_timeout,
        transmit,
        with_params,
    )
else:
    from mcp_intercept._sdk.line1 import (
        VERSION_KEY,
        HttpLink,
        SessionSeam,
        handshake,
        is_running,
        message_of,
        to_seconds,
        to_timeout,
        transmit,
        with_params,
    )

__all__ = [
    "LINE",
    "VERSION_KEY",
    "ClientSession",
    "HttpLink",
    "SessionSeam",
    "handshake",
    "is_running",
    "message_of",
    "to_seconds",
    "to_timeout",
    "transmit",
    "types",
    "with_params",
]
