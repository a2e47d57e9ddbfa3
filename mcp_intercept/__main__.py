"""`python -m mcp_intercept`, the same as the command `mcp-intercept`."""

import sys

from mcp_intercept._cli import main

sys.exit(main())
