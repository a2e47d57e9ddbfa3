"""The names of OpenTelemetry's semantic conventions for MCP.

They are in development, and follow `docs/gen-ai/mcp.md` and `model/mcp/*.yaml` of `semantic-conventions-genai` as of
its pull request 404 (July 2026). The constants of `opentelemetry-semantic-conventions` are of an earlier revision.
"""

from __future__ import annotations

METHOD_NAME = "mcp.method.name"
PROTOCOL_VERSION = "mcp.protocol.version"
RESOURCE_URI = "mcp.resource.uri"
SESSION_ID = "mcp.session.id"
REQUEST_ID = "jsonrpc.request.id"
STATUS_CODE = "rpc.response.status_code"
ERROR_TYPE = "error.type"

OPERATION_NAME = "gen_ai.operation.name"
EXECUTE_TOOL = "execute_tool"
TOOL_NAME = "gen_ai.tool.name"
PROMPT_NAME = "gen_ai.prompt.name"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
PROMPT_VARIABLE = "gen_ai.prompt.variable."

NETWORK_TRANSPORT = "network.transport"
NETWORK_PROTOCOL_NAME = "network.protocol.name"
NETWORK_PROTOCOL_VERSION = "network.protocol.version"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

CLIENT_OPERATION_DURATION = "mcp.client.operation.duration"
SERVER_OPERATION_DURATION = "mcp.server.operation.duration"
CLIENT_SESSION_DURATION = "mcp.client.session.duration"
BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Advised boundaries of all of them, in seconds."""

TOOL_ERROR = "tool_error"
"""`error.type` of a result whose `isError` is true."""

OTHER = "_OTHER"
"""Stands for values that would be too many."""

SERVER_NO_ERRORS = frozenset({-32700, -32600, -32601, -32602, -32002})
"""Codes with which whoever answers is not at fault: they are no errors of a SERVER span."""

CAPTURE_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The environment variable by which users ask for content."""

# What the conventions have no name for.
CONNECTION_ID = "mcp_intercept.connection_id"
"""The `connection_id` of the session: of several servers over stdio, only that tells which."""

ATTEMPTS = "mcp_intercept.attempts"
"""How often the request was sent; set when that is not once."""

ATTEMPT = "mcp_intercept.attempt"
"""Which sending of a call this span is, where something outside of it sends again."""

RETRY = "mcp_intercept.retry"
"""An event: the request is sent again."""

SHORT_CUT = "mcp_intercept.short_cut"
"""True where a middleware answered and nothing was sent: a cache, a policy."""

REWRITTEN = "mcp_intercept.rewritten"
"""Which params a middleware changed before they were sent, by name."""

ROUND = "mcp_intercept.round"
"""Which round of a multi-round-trip call this is; set from the second on."""

INPUT_REQUIRED = "mcp_intercept.input_required"
"""An event: the call was answered with questions."""

QUESTIONS = "mcp_intercept.questions"
"""How many, on that event."""
