"""All knowledge of the two SDK lines; the only place that imports `mcp`.

`line1` and `line2` offer the same names; `line` is the one that fits the installed SDK. `line1` goes when `mcp` 1.x
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import mcp.types as types
from mcp import ClientSession

# Line 1 wraps each message in a root model, line 2 passes the message itself: the difference met most often here.
LINE: Literal[1, 2] = 1 if isinstance(cast("object", types.ClientRequest), type) else 2

if TYPE_CHECKING or LINE == 2:
    from mcp_intercept._sdk import line2 as line
else:
    from mcp_intercept._sdk import line1 as line

__all__ = ["LINE", "ClientSession", "line", "types"]
