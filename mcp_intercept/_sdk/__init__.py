"""All knowledge of the two SDK lines; the only place that imports `mcp`.

`line1` and `line2` offer the same names, and so do `receiving1` and `receiving2`; `line` and `receiving` are those that
fit the installed SDK. `line1` and `receiving1` go when `mcp` 1.x does; `spans2` is line 2's alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import mcp.types as types
from mcp import ClientSession

# Line 1 wraps each message in a root model, line 2 passes the message itself: the difference met most often here.
LINE: Literal[1, 2] = 1 if isinstance(cast("object", types.ClientRequest), type) else 2

if TYPE_CHECKING or LINE == 2:
    from mcp_intercept._sdk import line2 as line
    from mcp_intercept._sdk import receiving2 as receiving
else:
    from mcp_intercept._sdk import line1 as line
    from mcp_intercept._sdk import receiving1 as receiving

__all__ = ["LINE", "ClientSession", "line", "receiving", "types"]
