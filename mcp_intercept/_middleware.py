"""`Middleware`, the base class with a typed hook for every MCP method, and how a middleware becomes layers."""

# The functions below are the other half of the class.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mcp_intercept._chain import AnyMiddleware, NextFunctionT, describe
from mcp_intercept._context import Kind, MiddlewareContext
from mcp_intercept.errors import MiddlewareError
from mcp_intercept.methods import METHODS

if TYPE_CHECKING:
    # The newest SDK has every model of both eras; an editor on line 1 does not know the few of 2026-07-28.
    import mcp.types as types

HookT = TypeVar("HookT", bound=Callable[..., Any])


def hook(method: str) -> Callable[[HookT], HookT]:
    """Make a method of a `Middleware` subclass the hook for a wire method that has none: an extension, a vendor's.

    Args:
        method: The wire name, e.g. `"acme/frobnicate"`.

    Raises:
        MiddlewareError: The method has a hook of its own, which is to be overridden instead, or the class marks two
            hooks for it. Raised when the class is created.
    """
    if not isinstance(method, str):  # pyright: ignore[reportUnnecessaryIsInstance] - written without parentheses
        raise MiddlewareError('hook takes the wire name of a method: @hook("vendor/method")', middleware=method)

    def mark(function: HookT) -> HookT:
        function.__mcp_method__ = method  # type: ignore[attr-defined]  # how functions are marked in Python
        return function

    return mark


class Middleware:
    """Base class of middlewares: override the hooks for what you want to see.

    Hooks nest, outermost first: `on_message`, then `on_request` or `on_notification`, then the method's own. A hook
    that is not overridden costs nothing. Each gets the context and `call_next`, the rest of the chain (see
    `NextFunctionT` for what may be done with it), and returns the result.
    """

    _hooks: ClassVar[dict[str, str]] = {row.name: row.hook for row in METHODS.values()}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._hooks = dict(Middleware._hooks)
        # Every base counts: others than the first, and mixins that are no middleware themselves.
        for base in reversed(cls.__mro__):
            marked = {name: getattr(value, "__mcp_method__", None) for name, value in vars(base).items()}
            for name, method in marked.items():
                if method is not None:
                    cls._add_hook(method, name, [other for other in marked if marked[other] == method])
        known = {*dir(Middleware), *cls._hooks.values()}
        for name, value in vars(cls).items():
            if name.startswith("on_") and name not in known and iscoroutinefunction(value):
                _warn_of_misspelling(cls, name)

    @classmethod
    def _add_hook(cls, method: str, name: str, rivals: list[str]) -> None:
        if method in METHODS:
            raise MiddlewareError(
                f"{cls.__qualname__}.{name} is marked as the hook of {method}, which has one: "
                f"override {METHODS[method].hook} instead",
                middleware=cls,
                method=method,
            )
        if len(rivals) > 1:
            raise MiddlewareError(
                f"{cls.__qualname__}.{rivals[1]} is marked as the hook of {method}, as {rivals[0]} is: keep one",
                middleware=cls,
                method=method,
            )
        cls._hooks[method] = name

    async def __call__(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Run the hooks that are overridden. The chain calls them directly; this is for calling one by hand."""
        for hook in reversed(_overridden_hooks(self, context.method, context.kind)):
            call_next = _bind(hook, call_next)
        return await call_next(context)

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Every message, whatever its kind and direction (see `context.direction`)."""
        return await call_next(context)

    async def on_request(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Every request."""
        return await call_next(context)

    async def on_notification(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, None]) -> None:
        """Every notification. Not calling `call_next` drops it."""
        return await call_next(context)

    async def on_initialize(
        self,
        context: MiddlewareContext[types.InitializeRequestParams],
        call_next: NextFunctionT[types.InitializeRequestParams, types.InitializeResult],
    ) -> types.InitializeResult:
        """The handshake of protocol versions up to 2025-11-25 (`initialize`)."""
        return await call_next(context)

    async def on_discover(
        self,
        context: MiddlewareContext[types.RequestParams | None],
        call_next: NextFunctionT[types.RequestParams | None, types.DiscoverResult],
    ) -> types.DiscoverResult:
        """The discovery of protocol version 2026-07-28 (`server/discover`; SDK line 2)."""
        return await call_next(context)

    async def on_call_tool(
        self,
        context: MiddlewareContext[types.CallToolRequestParams],
        call_next: NextFunctionT[types.CallToolRequestParams, types.CallToolResult],
    ) -> types.CallToolResult:
        """A tool call (`tools/call`).

        In a multi-round-trip call of protocol version 2026-07-28 the result can also be an `InputRequiredResult`.
        What the SDK checks of a result against the tool's output schema, it checks after the chain.
        """
        return await call_next(context)

    async def on_list_tools(
        self,
        context: MiddlewareContext[types.PaginatedRequestParams | None],
        call_next: NextFunctionT[types.PaginatedRequestParams | None, types.ListToolsResult],
    ) -> types.ListToolsResult:
        """A page of the tools (`tools/list`). The SDK sends one by itself to learn a tool's output schema."""
        return await call_next(context)

    async def on_list_resources(
        self,
        context: MiddlewareContext[types.PaginatedRequestParams | None],
        call_next: NextFunctionT[types.PaginatedRequestParams | None, types.ListResourcesResult],
    ) -> types.ListResourcesResult:
        """A page of the resources (`resources/list`)."""
        return await call_next(context)

    async def on_list_resource_templates(
        self,
        context: MiddlewareContext[types.PaginatedRequestParams | None],
        call_next: NextFunctionT[types.PaginatedRequestParams | None, types.ListResourceTemplatesResult],
    ) -> types.ListResourceTemplatesResult:
        """A page of the resource templates (`resources/templates/list`)."""
        return await call_next(context)

    async def on_read_resource(
        self,
        context: MiddlewareContext[types.ReadResourceRequestParams],
        call_next: NextFunctionT[types.ReadResourceRequestParams, types.ReadResourceResult],
    ) -> types.ReadResourceResult:
        """A resource is read (`resources/read`)."""
        return await call_next(context)

    async def on_subscribe(
        self,
        context: MiddlewareContext[types.SubscribeRequestParams],
        call_next: NextFunctionT[types.SubscribeRequestParams, types.EmptyResult],
    ) -> types.EmptyResult:
        """A subscription to one resource (`resources/subscribe`, up to 2025-11-25)."""
        return await call_next(context)

    async def on_unsubscribe(
        self,
        context: MiddlewareContext[types.UnsubscribeRequestParams],
        call_next: NextFunctionT[types.UnsubscribeRequestParams, types.EmptyResult],
    ) -> types.EmptyResult:
        """The end of a subscription (`resources/unsubscribe`, up to 2025-11-25)."""
        return await call_next(context)

    async def on_listen(
        self,
        context: MiddlewareContext[types.SubscriptionsListenRequestParams],
        call_next: NextFunctionT[types.SubscriptionsListenRequestParams, types.SubscriptionsListenResult],
    ) -> types.SubscriptionsListenResult:
        """A stream of change notifications (`subscriptions/listen`, 2026-07-28; SDK line 2).

        The call lasts as long as the stream, which as a rule ends by cancellation.
        """
        return await call_next(context)

    async def on_list_prompts(
        self,
        context: MiddlewareContext[types.PaginatedRequestParams | None],
        call_next: NextFunctionT[types.PaginatedRequestParams | None, types.ListPromptsResult],
    ) -> types.ListPromptsResult:
        """A page of the prompts (`prompts/list`)."""
        return await call_next(context)

    async def on_get_prompt(
        self,
        context: MiddlewareContext[types.GetPromptRequestParams],
        call_next: NextFunctionT[types.GetPromptRequestParams, types.GetPromptResult],
    ) -> types.GetPromptResult:
        """A prompt is rendered (`prompts/get`)."""
        return await call_next(context)

    async def on_complete(
        self,
        context: MiddlewareContext[types.CompleteRequestParams],
        call_next: NextFunctionT[types.CompleteRequestParams, types.CompleteResult],
    ) -> types.CompleteResult:
        """An argument is completed (`completion/complete`)."""
        return await call_next(context)

    async def on_set_logging_level(
        self,
        context: MiddlewareContext[types.SetLevelRequestParams],
        call_next: NextFunctionT[types.SetLevelRequestParams, types.EmptyResult],
    ) -> types.EmptyResult:
        """The server's log level (`logging/setLevel`, up to 2025-11-25)."""
        return await call_next(context)

    async def on_ping(
        self,
        context: MiddlewareContext[types.RequestParams | None],
        call_next: NextFunctionT[types.RequestParams | None, types.EmptyResult],
    ) -> types.EmptyResult:
        """A ping, in either direction (`ping`, up to 2025-11-25)."""
        return await call_next(context)

    async def on_get_task(
        self,
        context: MiddlewareContext[types.GetTaskRequestParams],
        call_next: NextFunctionT[types.GetTaskRequestParams, types.GetTaskResult],
    ) -> types.GetTaskResult:
        """The state of a task (`tasks/get`, experimental in 2025-11-25; SDK line 1)."""
        return await call_next(context)

    async def on_get_task_result(
        self,
        context: MiddlewareContext[types.GetTaskPayloadRequestParams],
        call_next: NextFunctionT[types.GetTaskPayloadRequestParams, types.GetTaskPayloadResult],
    ) -> types.GetTaskPayloadResult:
        """The result of a task (`tasks/result`, experimental in 2025-11-25; SDK line 1).

        The result is of the type the task's own request has, e.g. a `CallToolResult`.
        """
        return await call_next(context)

    async def on_list_tasks(
        self,
        context: MiddlewareContext[types.PaginatedRequestParams | None],
        call_next: NextFunctionT[types.PaginatedRequestParams | None, types.ListTasksResult],
    ) -> types.ListTasksResult:
        """A page of the tasks (`tasks/list`, experimental in 2025-11-25; SDK line 1)."""
        return await call_next(context)

    async def on_cancel_task(
        self,
        context: MiddlewareContext[types.CancelTaskRequestParams],
        call_next: NextFunctionT[types.CancelTaskRequestParams, types.CancelTaskResult],
    ) -> types.CancelTaskResult:
        """A task is cancelled (`tasks/cancel`, experimental in 2025-11-25; SDK line 1)."""
        return await call_next(context)

    async def on_create_message(
        self,
        context: MiddlewareContext[types.CreateMessageRequestParams],
        call_next: NextFunctionT[
            types.CreateMessageRequestParams, types.CreateMessageResult | types.CreateMessageResultWithTools
        ],
    ) -> types.CreateMessageResult | types.CreateMessageResultWithTools | types.ErrorData:
        """Incoming: the server wants a message sampled (`sampling/createMessage`).

        Without `call_next` it is answered in place of the callback. To refuse, return `ErrorData`, or raise.
        """
        return await call_next(context)

    async def on_elicit(
        self,
        context: MiddlewareContext[types.ElicitRequestParams],
        call_next: NextFunctionT[types.ElicitRequestParams, types.ElicitResult],
    ) -> types.ElicitResult | types.ErrorData:
        """Incoming: the server wants to ask the user (`elicitation/create`).

        Without `call_next` it is answered in place of the callback. To refuse, return `ErrorData`, or raise.
        """
        return await call_next(context)

    async def on_list_roots(
        self,
        context: MiddlewareContext[types.RequestParams | None],
        call_next: NextFunctionT[types.RequestParams | None, types.ListRootsResult],
    ) -> types.ListRootsResult | types.ErrorData:
        """Incoming: the server wants the roots (`roots/list`).

        Without `call_next` it is answered in place of the callback. To refuse, return `ErrorData`, or raise.
        """
        return await call_next(context)

    async def on_initialized(
        self,
        context: MiddlewareContext[types.NotificationParams | None],
        call_next: NextFunctionT[types.NotificationParams | None, None],
    ) -> None:
        """The client finished the handshake (`notifications/initialized`)."""
        return await call_next(context)

    async def on_roots_list_changed(
        self,
        context: MiddlewareContext[types.NotificationParams | None],
        call_next: NextFunctionT[types.NotificationParams | None, None],
    ) -> None:
        """The client's roots changed (`notifications/roots/list_changed`)."""
        return await call_next(context)

    async def on_cancelled(
        self,
        context: MiddlewareContext[types.CancelledNotificationParams],
        call_next: NextFunctionT[types.CancelledNotificationParams, None],
    ) -> None:
        """A request was abandoned (`notifications/cancelled`).

        Incoming: the server gives up a request of its own; without `call_next` its handler goes on. The one that the
        SDK, or for it this package, sends when a call is cancelled or times out is written below the chain.
        """
        return await call_next(context)

    async def on_progress(
        self,
        context: MiddlewareContext[types.ProgressNotificationParams],
        call_next: NextFunctionT[types.ProgressNotificationParams, None],
    ) -> None:
        """Progress of a request (`notifications/progress`), as a rule incoming.

        `context.related` is the call it reports on, whose progress callback is called at the end of the chain.
        """
        return await call_next(context)

    async def on_task_status(
        self,
        context: MiddlewareContext[types.TaskStatusNotificationParams],
        call_next: NextFunctionT[types.TaskStatusNotificationParams, None],
    ) -> None:
        """The state of a task changed (`notifications/tasks/status`, experimental in 2025-11-25)."""
        return await call_next(context)

    async def on_log_message(
        self,
        context: MiddlewareContext[types.LoggingMessageNotificationParams],
        call_next: NextFunctionT[types.LoggingMessageNotificationParams, None],
    ) -> None:
        """Incoming: a log message of the server (`notifications/message`)."""
        return await call_next(context)

    async def on_resource_updated(
        self,
        context: MiddlewareContext[types.ResourceUpdatedNotificationParams],
        call_next: NextFunctionT[types.ResourceUpdatedNotificationParams, None],
    ) -> None:
        """Incoming: a subscribed resource changed (`notifications/resources/updated`)."""
        return await call_next(context)

    async def on_tools_list_changed(
        self,
        context: MiddlewareContext[types.NotificationParams | None],
        call_next: NextFunctionT[types.NotificationParams | None, None],
    ) -> None:
        """Incoming: the tools changed (`notifications/tools/list_changed`)."""
        return await call_next(context)

    async def on_prompts_list_changed(
        self,
        context: MiddlewareContext[types.NotificationParams | None],
        call_next: NextFunctionT[types.NotificationParams | None, None],
    ) -> None:
        """Incoming: the prompts changed (`notifications/prompts/list_changed`)."""
        return await call_next(context)

    async def on_resources_list_changed(
        self,
        context: MiddlewareContext[types.NotificationParams | None],
        call_next: NextFunctionT[types.NotificationParams | None, None],
    ) -> None:
        """Incoming: the resources changed (`notifications/resources/list_changed`)."""
        return await call_next(context)

    async def on_elicitation_complete(
        self,
        context: MiddlewareContext[types.ElicitCompleteNotificationParams],
        call_next: NextFunctionT[types.ElicitCompleteNotificationParams, None],
    ) -> None:
        """Incoming: an elicitation by URL is complete (`notifications/elicitation/complete`)."""
        return await call_next(context)

    async def on_subscription_acknowledged(
        self,
        context: MiddlewareContext[types.SubscriptionsAcknowledgedNotificationParams],
        call_next: NextFunctionT[types.SubscriptionsAcknowledgedNotificationParams, None],
    ) -> None:
        """Incoming: a listen stream is open (`notifications/subscriptions/acknowledged`).

        Of a stream that the SDK itself opened, it is only shown: the SDK has taken note of it already.
        """
        return await call_next(context)


def check_middleware(middleware: AnyMiddleware) -> None:
    """Refuse what cannot be a layer, before any message meets it.

    Raises:
        MiddlewareError: It is a class, or cannot be called with a context and the rest of the chain.
    """
    if isinstance(middleware, type):
        name = middleware.__qualname__
        raise MiddlewareError(f"{name} is a class; give an instance: {name}()", middleware=middleware)
    if not callable(middleware):
        raise MiddlewareError(
            f"an object of type {type(middleware).__name__} is no middleware; "
            f"give a Middleware, or an async callable (context, call_next)",
            middleware=middleware,
        )
    hooks: list[AnyMiddleware] = []
    if isinstance(middleware, Middleware):
        hooks = _hooks_of(middleware, ["on_message", "on_request", "on_notification", *middleware._hooks.values()])
    for layer in [middleware, *hooks]:
        misfit = misfit_of(layer, 2)
        if misfit:
            raise MiddlewareError(
                f"middleware {describe(layer)}{signature(layer)} cannot be called with (context, call_next): {misfit}",
                middleware=layer,
            )


def misfit_of(function: Callable[..., Any], arguments: int) -> str | None:
    """What keeps a callable from being called with so many positional arguments; `None` if nothing that is known."""
    try:
        parameters = signature(function)
    except (TypeError, ValueError):
        return None  # some callables written in C have none
    try:
        parameters.bind(*[None] * arguments)
    except TypeError as error:
        return str(error)
    return None


def is_plain_function_of_two(callback: Any) -> bool:
    """Whether `callback` can be called with two arguments, and need not be awaited."""
    is_async = iscoroutinefunction(callback) or iscoroutinefunction(getattr(callback, "__call__", None))  # noqa: B004 - not asked whether it can be called
    return callable(callback) and not is_async and misfit_of(callback, 2) is None


def layers_of(middleware: AnyMiddleware, method: str | None, kind: Kind) -> list[AnyMiddleware]:
    """The callables that `middleware` puts into the chain of one method, outermost first.

    Args:
        middleware: Any middleware.
        method: The wire method, or `None` for those that no row and no hook names.
        kind: Whether messages of the method are requests or notifications.
    """
    if isinstance(middleware, Middleware):
        # Who overrides __call__ itself wants every message.
        own_call = type(middleware).__call__ is not Middleware.__call__
        return [middleware] if own_call else _overridden_hooks(middleware, method, kind)
    # The base class of mcp-use's client knows requests only, and takes whatever it is called with for one.
    requests_only = hasattr(middleware, "on_request") and not hasattr(middleware, "on_notification")
    return [] if requests_only and kind == "notification" else [middleware]


def hooked_methods(middleware: AnyMiddleware) -> list[str]:
    """The wire methods beyond the table that `middleware` has hooks for."""
    return [*middleware._hooks] if isinstance(middleware, Middleware) else []


def _overridden_hooks(middleware: Middleware, method: str | None, kind: Kind) -> list[AnyMiddleware]:
    hooks = middleware._hooks
    own = [hooks[method]] if method in hooks else []
    return _hooks_of(middleware, ["on_message", f"on_{kind}", *own])


def _hooks_of(middleware: Middleware, names: Iterable[str]) -> list[AnyMiddleware]:
    return [
        getattr(middleware, name)
        for name in names
        # An instance may carry a hook of its own, e.g. one set by a test.
        if name in vars(middleware) or getattr(type(middleware), name) is not getattr(Middleware, name, None)
    ]


def _bind(hook: AnyMiddleware, call_next: NextFunctionT[Any, Any]) -> NextFunctionT[Any, Any]:
    async def bound(context: MiddlewareContext[Any], /) -> Any:
        return await hook(context, call_next)

    return bound


def _warn_of_misspelling(cls: type[Middleware], name: str) -> None:
    close = get_close_matches(name, [entry for entry in dir(Middleware) if entry.startswith("on_")], 1, 0.75)
    if close:
        warnings.warn(
            f"{cls.__qualname__}.{name} is no hook and will not be called; did you mean {close[0]}?", stacklevel=3
        )
