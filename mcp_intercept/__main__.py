"""`python -m mcp_intercept` is the command `mcp-intercept`."""

import sys

from mcp_intercept._cli import main

sys.exit(main())
