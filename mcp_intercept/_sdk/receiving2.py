"""Where a session of SDK line 2 receives, and how what it receives is handed over."""

# The places are in the SDK's dispatchers, which have no public ones.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import ref

import anyio
import mcp.types as types
from mcp import ClientSession
from mcp.shared import jsonrpc_dispatcher
from mcp.shared.direct_dispatcher import DirectDispatcher
from mcp.shared.dispatcher import coerce_request_id
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from mcp_intercept._sdk.line2 import VERSION_KEY, Stamp, dump, is_same_json, to_error, with_params
from mcp_intercept._sdk.patches import Patches
from mcp_intercept._sdk.seam import IncomingSeam
from mcp_intercept.methods import PROGRESS

# The questions of a server, which the SDK hands to `dispatch_input_request` in either protocol era.
_QUESTIONS = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})

_CANCELLED = "notifications/cancelled"
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


def install(session: ClientSession, incoming: IncomingSeam) -> Callable[[], None]:
    """Hand what `session` receives to `incoming`, as long as that wants it.

    Returns:
        Its undo.
    """
    return _Receiving(session, incoming).undo


class _Receiving:
    """The places where a session and its dispatcher hand out messages of the server."""

    def __init__(self, session: ClientSession, incoming: IncomingSeam) -> None:
        self._session: Callable[[], Any] = ref(session)
        self._incoming = incoming
        self._patches = Patches()
        self._own: dict[str, Any] = {}
        dispatcher: Any = session.__dict__["_dispatcher"]
        self._patch(session, "dispatch_input_request", self._dispatch_input_request)
        # On the dispatcher, for it may run already.
        if issubclass(type(dispatcher), jsonrpc_dispatcher.JSONRPCDispatcher):
            self._dispatcher: Callable[[], Any] = ref(dispatcher)
            self._patch(dispatcher, "_dispatch_request", self._dispatch_request)
            self._patch(dispatcher, "_dispatch_notification", self._dispatch_notification)
        elif issubclass(type(dispatcher), DirectDispatcher):
            self._dispatcher = ref(dispatcher)
            self._patch(dispatcher, "_dispatch_request", self._dispatch_direct_request)
            self._patch(dispatcher, "_dispatch_notify", self._dispatch_direct_notification)
            self._patch(dispatcher, "send_raw_request", self._send_direct)
        else:
            # Of a dispatcher that somebody wrote, it is known only what it is given when the session is entered.
            self._patch(session, "_on_request", self._on_request)
            self._patch(session, "_on_notify", self._on_notify)

    def undo(self) -> None:
        """Leave the session as it was."""
        self._patches.undo()
        state = self._session().__dict__
        if type(state["_stamp"]) is Stamp:
            state["_stamp"] = state["_stamp"].stamp

    def _patch(self, target: object, name: str, function: Any) -> None:
        attributes: dict[str, Any] = vars(target)
        self._own[name] = attributes.get(name)
        self._patches.set(target, name, function)

    def _original(self, target: object, name: str) -> Any:
        return self._own[name] or getattr(type(target), name).__get__(target)

    def _reads_itself(self, method: str) -> bool:
        """Whether the SDK hands such a request to `dispatch_input_request`, and so to the chain."""
        version = self._incoming.owner.__dict__[VERSION_KEY]
        return method in _QUESTIONS and version not in MODERN_PROTOCOL_VERSIONS

    async def _dispatch_input_request(self, context: Any, request: Any) -> Any:
        session = context.session
        # A wrapper stands for the session that it shares its state with.
        original = self._original(session, "dispatch_input_request")
        method = request.method
        if not self._incoming.wants("request", method):
            return await original(context, request)

        async def deliver(params: Any) -> Any:
            changed = params is not request.params
            return await original(context, with_params(request, params) if changed else request)

        within_call = session.__dict__[VERSION_KEY] in MODERN_PROTOCOL_VERSIONS
        return await self._incoming.answer(
            method,
            request.params,
            deliver,
            jsonrpc_id=None if within_call else context.request_id,
            origin=request,
            within_call=within_call,
        )

    async def _dispatch_request(self, request: Any, metadata: Any, on_request: Any, *rest: Any) -> None:
        original = self._original(self._dispatcher(), "_dispatch_request")
        await original(request, metadata, partial(self._answer, on_request), *rest)

    async def _dispatch_direct_request(self, method: str, params: Any, opts: Any) -> Any:
        original = self._original(self._dispatcher(), "_dispatch_request")

        async def on_request(context: Any, method: str, params: Any) -> Any:
            return await original(method, params, opts)

        return await self._answer(on_request, None, method, params)

    async def _on_request(self, context: Any, method: str, params: Any) -> Any:
        return await self._answer(self._original(self._incoming.owner, "_on_request"), context, method, params)

    async def _answer(self, on_request: Any, context: Any, method: str, params: Any) -> Any:
        """Pass a request through the chain, unless the SDK does so further on."""
        incoming = self._incoming
        if self._reads_itself(method) or not incoming.wants("request", method):
            return await on_request(context, method, params)
        try:
            message = _Message(incoming, "request", method, params)
        except ValidationError:
            return await on_request(context, method, params)

        async def deliver(params: Any) -> Any:
            raw = await on_request(context, method, message.wire(params))
            return types.EmptyResult.model_validate(raw) if method == "ping" else raw

        result = await incoming.answer(method, message.params, deliver, jsonrpc_id=getattr(context, "request_id", None))
        if isinstance(result, types.ErrorData):
            raise to_error(result)
        return dump(result) if isinstance(result, BaseModel) else result

    def _dispatch_notification(self, notification: Any, metadata: Any, on_notify: Any, sender_context: Any) -> None:
        dispatcher: Any = self._dispatcher()
        original = self._original(dispatcher, "_dispatch_notification")
        method, raw = notification.method, notification.params
        message = self._message(method, raw)
        if message is None:
            original(notification, metadata, on_notify, sender_context)
        elif method == _CANCELLED:
            self._dispatch_cancelled(message, notification, metadata, on_notify, sender_context)
        elif method == PROGRESS:
            # The dispatcher must not call back before the chain has seen it.
            token = raw["progressToken"]
            is_token = isinstance(token, (int, str)) and not isinstance(token, bool)
            pending = dispatcher._pending.get(coerce_request_id(token)) if is_token else None
            callback = None if pending is None else pending.on_progress
            try:
                if pending is not None:
                    pending.on_progress = None
                original(notification, metadata, partial(self._tell, message, on_notify, callback), sender_context)
            finally:
                if pending is not None:
                    pending.on_progress = callback
        elif method == _ACKNOWLEDGED:
            self._dispatch_acknowledged(message, notification, metadata, on_notify, sender_context)
        else:
            original(notification, metadata, partial(self._tell, message, on_notify, None), sender_context)

    def _dispatch_cancelled(
        self, message: _Message, notification: Any, metadata: Any, on_notify: Any, sender_context: Any
    ) -> None:
        """Let the chain see it first: the dispatcher cancels at once."""
        dispatcher: Any = self._dispatcher()
        original = self._original(dispatcher, "_dispatch_notification")
        routes = self._incoming.owner.__dict__["_listen_routes"]
        if notification.params.get("requestId") in routes:
            # It ends a stream of notifications, which is to happen in the order of the wire.
            original(notification, metadata, partial(self._tell, message, on_notify, None), sender_context)
            return

        async def cancel(context: Any, method: str, params: Any) -> None:  # noqa: ASYNC124 - it stands for a handler
            changed = notification.model_copy(update={"params": params})
            original(changed, metadata, on_notify, sender_context)

        dispatcher._spawn(self._tell, message, cancel, None, None, _CANCELLED, None, sender_ctx=sender_context)

    def _dispatch_acknowledged(
        self, message: _Message, notification: Any, metadata: Any, on_notify: Any, sender_context: Any
    ) -> None:
        """Show the chain also what the SDK keeps for itself: the answer to a `listen` of its own."""
        dispatcher: Any = self._dispatcher()
        original = self._original(dispatcher, "_dispatch_notification")
        intercept = dispatcher._on_notify_intercept
        kept: list[bool] = []

        def noting(method: str, params: Any) -> bool:
            kept.append(bool(intercept(method, params)))
            return kept[0]

        async def nothing(context: Any, method: str, params: Any) -> None:  # noqa: ASYNC124 - it stands for a handler
            """The SDK has it already."""

        dispatcher._on_notify_intercept = intercept and noting
        try:
            original(notification, metadata, partial(self._tell, message, on_notify, None), sender_context)
        finally:
            dispatcher._on_notify_intercept = intercept
        if any(kept):
            dispatcher._spawn(self._tell, message, nothing, None, None, "", None, sender_ctx=sender_context)

    async def _dispatch_direct_notification(self, method: str, params: Any) -> None:
        original = self._original(self._dispatcher(), "_dispatch_notify")
        message = self._message(method, params)
        if message is None:
            await original(method, params)
            return

        async def on_notify(context: Any, method: str, params: Any) -> None:
            await original(method, params)

        await self._tell(message, on_notify, None, None, method, params)

    async def _send_direct(self, method: str, params: Any, opts: Any = None) -> Any:
        """Report progress through the chain: in process, it is no notification, but a call of the callback."""
        original = self._original(self._dispatcher(), "send_raw_request")
        options: dict[str, Any] = opts or {}
        callback = options.get("on_progress")
        if callback is None:
            return await original(method, params, opts)

        token = getattr(getattr(callback, "context", None), "id", method)

        async def report(progress: Any, total: Any = None, message: Any = None) -> None:
            reported: Any = None
            with suppress(ValidationError):
                reported = types.ProgressNotificationParams(
                    progress_token=token, progress=progress, total=total, message=message
                )

            async def deliver(params: Any) -> None:
                told = _progress_of(params)
                # What the server said, as it said it, unless a middleware changed it.
                await callback(*((progress, total, message) if told == read else told))

            read = _progress_of(reported)
            if reported is None:
                await deliver(None)
            else:
                await self._incoming.tell(PROGRESS, reported, deliver, origin=callback)

        return await original(method, params, {**options, "on_progress": report})

    async def _on_notify(self, context: Any, method: str, params: Any) -> None:
        original = self._original(self._incoming.owner, "_on_notify")
        message = self._message(method, params)
        if message is None:
            await original(context, method, params)
        else:
            await self._tell(message, original, None, context, method, params)

    def _message(self, method: str, params: Any) -> _Message | None:
        """A notification for the chain; `None` where the SDK alone deals with it."""
        if not self._incoming.wants("notification", method):
            return None
        try:
            return _Message(self._incoming, "notification", method, params)
        except ValidationError:
            return None  # the SDK says so

    async def _tell(
        self, message: _Message, on_notify: Any, callback: Any, context: Any, method: str, params: Any
    ) -> None:
        """Pass a notification through the chain; the arguments after `callback` are those of the SDK's handler."""
        has_callback = callback is not None and _is_number(message.raw["progress"])

        async def deliver(params: Any) -> None:
            wire = message.wire(params)
            if not has_callback:
                await on_notify(context, message.method, wire)
                return
            total, text = wire.get("total"), wire.get("message")
            # Both at once, and the callback first, as the dispatcher does; from what it reads off the wire.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(on_notify, context, message.method, wire)
                progress: Any = callback
                await jsonrpc_dispatcher._shielded_progress(progress)(
                    float(wire["progress"]),
                    float(total) if isinstance(total, (int, float)) else None,
                    text if isinstance(text, str) else None,
                )

        await self._incoming.tell(message.method, message.params, deliver, origin=callback)


def _progress_of(params: Any) -> Any:
    return None if params is None else (params.progress, params.total, params.message)


class _Message:
    """A message as the wire has it, and its typed params."""

    def __init__(self, incoming: IncomingSeam, kind: Any, method: str, raw: Any) -> None:
        self.method = method
        self.raw = raw
        self.params = incoming.read_params(kind, method, raw)
        self._before = dump(self.params) if isinstance(self.params, BaseModel) else None

    def wire(self, params: Any) -> Any:
        """What the SDK is to read: what the server sent, unless a middleware changed it."""
        if not isinstance(params, BaseModel):
            return params
        data = dump(params)
        return self.raw if is_same_json(data, self._before) else data


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
