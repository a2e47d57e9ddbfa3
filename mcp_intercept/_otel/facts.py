"""What the conventions want to know of a message: its name, its attributes, and how it ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mcp_intercept._context import CLOSED, Endpoint, MiddlewareContext, is_closed, outcome_of, printable
from mcp_intercept._otel import semconv
from mcp_intercept._otel.echoes import without_echoes
from mcp_intercept._otel.json_like import is_object
from mcp_intercept.methods import METHODS

_MAX_MESSAGE = 500
_MAX_NAME = 200
_MAX_URI = 1000
_MAX_VERSION = 50

_NAMED = {"tools/call": semconv.TOOL_NAME, "prompts/get": semconv.PROMPT_NAME}
_WITH_URI = frozenset(
    {"resources/read", "resources/subscribe", "resources/unsubscribe", "notifications/resources/updated"}
)
# A URI may carry credentials: a user and a password, or signatures, as the conventions of `url.full` name them.
_USER_INFO = re.compile(r"(?<=://)[^/?#]*@")
_SIGNATURE = re.compile(
    r"(?<=[?&])((?:X-Amz-|X-Goog-)?(?:Signature|Credential|Security-Token)|AWSAccessKeyId|sig"
    r"|[\w-]*(?:token|secret|password|api[_-]?key))=[^&#]*",
    re.IGNORECASE,
)

OWN_TYPES = frozenset({semconv.TOOL_ERROR, "timeout", "cancelled", CLOSED})
"""What `error.type` may be besides codes and the names of exceptions."""

# What else calls itself a code of JSON-RPC could have thousands of digits.
_CODES = range(-(2**31), 2**31)


class Subject(NamedTuple):
    """What a message is about."""

    attribute: str | None = None
    name: str | None = None
    uri: str | None = None


def subject_of(method: str, params: Any) -> Subject:
    """The tool or the prompt, or the resource, that a message names."""
    attribute = _NAMED.get(method)
    if attribute is not None:
        name = getattr(params, "name", None)
        return Subject(attribute, short_name(name)) if isinstance(name, str) else Subject()
    uri = getattr(params, "uri", None) if method in _WITH_URI else None
    return Subject() if uri is None else Subject(uri=printable(without_credentials(str(uri)), _MAX_URI))


def short_name(name: str) -> str:
    """The name of a tool or prompt, which a model may have made up, or a server."""
    return printable(name, _MAX_NAME)


def without_credentials(uri: str) -> str:
    """A URI without what lets somebody in."""
    return _SIGNATURE.sub(r"\1=REDACTED", _USER_INFO.sub("REDACTED:REDACTED@", uri))


def attributes_of(context: MiddlewareContext[Any], subject: Subject) -> dict[str, Any]:
    """The attributes that are known before a message is sent."""
    attributes: dict[str, Any] = {
        semconv.METHOD_NAME: printable(context.method),
        semconv.CONNECTION_ID: printable(context.connection_id),
    }
    if context.method == "tools/call":
        attributes[semconv.OPERATION_NAME] = semconv.EXECUTE_TOOL
    if subject.attribute is not None:
        attributes[subject.attribute] = subject.name
    if subject.uri is not None:
        attributes[semconv.RESOURCE_URI] = subject.uri
    if context.protocol_version is not None:
        attributes[semconv.PROTOCOL_VERSION] = short_version(context.protocol_version)
    if context.session_id is not None:
        attributes[semconv.SESSION_ID] = printable(context.session_id)
    return attributes


def short_version(version: str) -> str:
    """A protocol version, which a server may say anything for."""
    return printable(version, _MAX_VERSION)


def endpoint_attributes(endpoint: Endpoint) -> dict[str, Any]:
    """Where messages go."""
    attributes = {
        semconv.NETWORK_TRANSPORT: endpoint.transport,
        semconv.NETWORK_PROTOCOL_NAME: endpoint.protocol,
        semconv.NETWORK_PROTOCOL_VERSION: endpoint.protocol_version,
        semconv.SERVER_ADDRESS: endpoint.address,
        semconv.SERVER_PORT: endpoint.port,
    }
    return {name: value for name, value in attributes.items() if value is not None}


class Ending(NamedTuple):
    """How a message ended, if not well."""

    error_type: str | None = None
    status_code: str | None = None
    message: str | None = None


def ending_of(result: Any, error: BaseException | None, *, served: bool) -> Ending:
    """How a message ended.

    Args:
        result: The result, if it has one.
        error: What was raised, if anything was.
        served: Whether it was us who were asked; then not every code is an error.
    """
    outcome = outcome_of(result, error)
    if outcome == "ok":
        return Ending()
    if outcome in ("tool_error", "timeout", "cancelled"):
        return Ending(semconv.TOOL_ERROR if outcome == "tool_error" else outcome)
    if is_closed(error):
        return Ending(CLOSED)
    data = getattr(error, "error", None)
    code = getattr(data, "code", None)
    if isinstance(code, int):
        message = getattr(data, "message", None)
        if code not in _CODES:
            return Ending(semconv.OTHER, semconv.OTHER, message)
        is_error = not (served and code in semconv.SERVER_NO_ERRORS)
        return Ending(str(code) if is_error else None, str(code), message if is_error else None)
    status = getattr(getattr(error, "response", None), "status_code", None)
    return Ending(str(status) if isinstance(status, int) else type(error).__qualname__)


def description_of(ending: Ending, params: Any) -> str | None:
    """The status description: the message of the JSON-RPC error, without what it repeats of `params`."""
    if not isinstance(ending.message, str) or not ending.message:
        return None
    message = without_echoes(ending.message, params)
    return None if message is None else printable(message, _MAX_MESSAGE)


def rewritten(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of params that a middleware changed; `_meta` is not counted."""
    names = {**before, **after}
    return sorted(name for name in names if name != "meta" and not _is_same(before.get(name), after.get(name)))


def _is_same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:
        return False


def snapshot(params: Any) -> dict[str, Any]:
    """The params as they are now, with their values one level deep."""
    fields: dict[str, Any] = dict(params if is_object(params) else getattr(params, "__dict__", {}))
    arguments = fields.get("arguments")
    if is_object(arguments):
        fields["arguments"] = dict(arguments)
    return fields


def is_known(method: str) -> bool:
    """Whether the protocol has such a method."""
    return method in METHODS
