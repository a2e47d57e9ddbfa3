"""One row per MCP method: who sends it, which hook it has, and which models of `mcp.types` it carries.

The rows cover both protocol eras (handshake versions up to 2025-11-25, and 2026-07-28) and both SDK lines. A new
method is a new row here and a hook of that name on `Middleware`; a message without a row still passes the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mcp_intercept._context import Kind

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of one MCP method."""

    name: str
    """The wire name."""

    hook: str
    """The name of its hook on `Middleware`."""

    sender: Literal["client", "server", "both"]
    """Who may send it."""

    params: str
    """The name of its params model in `mcp.types`."""

    optional: bool
    """Whether the message may come without params."""

    result: str | None = None
    """The name of its result model in `mcp.types`; `None` for a notification."""

    @property
    def kind(self) -> Kind:
        """Whether it is a request or a notification."""
        return "notification" if self.result is None else "request"


PROGRESS = "notifications/progress"
"""The one notification that belongs to a call."""

_PAGE, _ANY, _NOTE = "PaginatedRequestParams", "RequestParams", "NotificationParams"
_EMPTY = "EmptyResult"

_ROWS = (
    # The client asks.
    Method("initialize", "on_initialize", "client", "InitializeRequestParams", False, "InitializeResult"),
    Method("server/discover", "on_discover", "client", _ANY, True, "DiscoverResult"),
    Method("tools/call", "on_call_tool", "client", "CallToolRequestParams", False, "CallToolResult"),
    Method("tools/list", "on_list_tools", "client", _PAGE, True, "ListToolsResult"),
    Method("resources/list", "on_list_resources", "client", _PAGE, True, "ListResourcesResult"),
    Method(
        "resources/templates/list", "on_list_resource_templates", "client", _PAGE, True, "ListResourceTemplatesResult"
    ),
    Method("resources/read", "on_read_resource", "client", "ReadResourceRequestParams", False, "ReadResourceResult"),
    Method("resources/subscribe", "on_subscribe", "client", "SubscribeRequestParams", False, _EMPTY),
    Method("resources/unsubscribe", "on_unsubscribe", "client", "UnsubscribeRequestParams", False, _EMPTY),
    Method(
        "subscriptions/listen",
        "on_listen",
        "client",
        "SubscriptionsListenRequestParams",
        False,
        "SubscriptionsListenResult",
    ),
    Method("prompts/list", "on_list_prompts", "client", _PAGE, True, "ListPromptsResult"),
    Method("prompts/get", "on_get_prompt", "client", "GetPromptRequestParams", False, "GetPromptResult"),
    Method("completion/complete", "on_complete", "client", "CompleteRequestParams", False, "CompleteResult"),
    Method("logging/setLevel", "on_set_logging_level", "client", "SetLevelRequestParams", False, _EMPTY),
    # Either side asks.
    Method("ping", "on_ping", "both", _ANY, True, _EMPTY),
    Method("tasks/get", "on_get_task", "both", "GetTaskRequestParams", False, "GetTaskResult"),
    Method("tasks/result", "on_get_task_result", "both", "GetTaskPayloadRequestParams", False, "GetTaskPayloadResult"),
    Method("tasks/list", "on_list_tasks", "both", _PAGE, True, "ListTasksResult"),
    Method("tasks/cancel", "on_cancel_task", "both", "CancelTaskRequestParams", False, "CancelTaskResult"),
    # The server asks.
    Method(
        "sampling/createMessage",
        "on_create_message",
        "server",
        "CreateMessageRequestParams",
        False,
        "CreateMessageResult",
    ),
    Method("elicitation/create", "on_elicit", "server", "ElicitRequestParams", False, "ElicitResult"),
    Method("roots/list", "on_list_roots", "server", _ANY, True, "ListRootsResult"),
    # The client tells.
    Method("notifications/initialized", "on_initialized", "client", _NOTE, True),
    Method("notifications/roots/list_changed", "on_roots_list_changed", "client", _NOTE, True),
    # Either side tells.
    Method("notifications/cancelled", "on_cancelled", "both", "CancelledNotificationParams", False),
    Method(PROGRESS, "on_progress", "both", "ProgressNotificationParams", False),
    Method("notifications/tasks/status", "on_task_status", "both", "TaskStatusNotificationParams", False),
    # The server tells.
    Method("notifications/message", "on_log_message", "server", "LoggingMessageNotificationParams", False),
    Method(
        "notifications/resources/updated", "on_resource_updated", "server", "ResourceUpdatedNotificationParams", False
    ),
    Method("notifications/tools/list_changed", "on_tools_list_changed", "server", _NOTE, True),
    Method("notifications/prompts/list_changed", "on_prompts_list_changed", "server", _NOTE, True),
    Method("notifications/resources/list_changed", "on_resources_list_changed", "server", _NOTE, True),
    Method(
        "notifications/elicitation/complete",
        "on_elicitation_complete",
        "server",
        "ElicitCompleteNotificationParams",
        False,
    ),
    Method(
        "notifications/subscriptions/acknowledged",
        "on_subscription_acknowledged",
        "server",
        "SubscriptionsAcknowledgedNotificationParams",
        False,
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({row.name: row for row in _ROWS})
"""Every known MCP method, by wire name."""
