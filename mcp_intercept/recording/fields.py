"""How each field of the protocol is gone over by who looks for secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_intercept.recording.looks import words
from mcp_intercept.recording.values import is_object

SKIP: Final = 0
"""Left alone."""
OPAQUE: Final = 1
"""Passed on unread: only the values of environment variables are looked for."""
ENCODED: Final = 2
"""The same, in base64."""
PLAIN: Final = 3
"""Said to people and models: by looks, not by the names of keys."""
VALUES: Final = 4
"""Values that a schema speaks of: each string as in data, but not by the names of keys."""
DATA: Final = 5
"""Data of users: by looks, by the names of keys, and the JSON in strings."""
PROTOCOL: Final = 6
"""An object of the protocol, or a list of such; what it does not know is data."""
NAMED: Final = 7
"""An object of which each member is one of the protocol."""
SCHEMA: Final = 8
SCHEMAS: Final = 9
"""An object of which each member is a schema."""
HIDDEN: Final = 10
"""What is beneath a key that is secret."""

_FIELDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(
        words(
            "action audience cacheScope closed createdAt encoding format includeContext jsonrpc lastModified",
            "lastUpdatedAt level logger maxTokens method mimeType mode model notification progressToken",
            "protocolVersion request resultType role server server_notification server_request sizes status stopReason",
            "supportedVersions theme type version",
        ),
        SKIP,
    ),
    **dict.fromkeys(
        words("cursor elicitationId id nextCursor requestId requestState subscriptionId taskId toolUseId"), OPAQUE
    ),
    "blob": ENCODED,
    **dict.fromkeys(
        words(
            "_meta annotations capabilities clientInfo description execution icons instructions serverInfo",
            "stopSequences title uri uriTemplate url websiteUrl",
        ),
        PLAIN,
    ),
    **dict.fromkeys(words("input message metadata reason statusMessage structuredContent systemPrompt text"), DATA),
    **dict.fromkeys(
        words(
            "argument client_error client_result completion contents context error messages modelPreferences params",
            "prompts ref resource resourceTemplates resources result roots task tasks toolChoice tools",
        ),
        PROTOCOL,
    ),
    **dict.fromkeys(words("inputRequests inputResponses"), NAMED),
    **dict.fromkeys(words("inputSchema outputSchema requestedSchema"), SCHEMA),
}
"""How the fields of the protocol's own objects are gone over; those not named are data."""

SCHEMA_FIELDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(words("$defs definitions dependentSchemas patternProperties properties"), SCHEMAS),
    **dict.fromkeys(
        words(
            "$anchor $dynamicAnchor $dynamicRef $id $recursiveRef $ref $schema $vocabulary contentEncoding",
            "contentMediaType dependentRequired format id pattern required type",
        ),
        SKIP,
    ),
    **dict.fromkeys(words("const default enum example examples"), VALUES),
}
"""How the keywords of a schema are; those not named are schemas, lists of such, or say something."""


def field_mode(members: dict[str, Any], key: str, member: Any) -> int | None:
    """How to go over a field of an object of the protocol, or `None` if it is none that is known."""
    known = _FIELDS.get(key)
    if known is not None:
        return known
    if key == "name":
        # Of a resource it is told to people, as a title is; all others are names to call by.
        return PLAIN if "uri" in members or "uriTemplate" in members else OPAQUE
    if key == "content":
        # A form that was filled in is data; everything else so called is for the model.
        return DATA if "action" in members else PROTOCOL
    if key == "arguments":
        return PROTOCOL if type(member) is list else DATA
    if key == "data" and ("mimeType" in members or members.get("type") in ("image", "audio")):
        return ENCODED
    return None


def is_schema(members: dict[str, Any]) -> bool:
    """Whether an object within data is a JSON Schema of an object."""
    properties = members.get("properties")
    if not is_object(properties) or not (members.get("type") == "object" or "$schema" in members):
        return False
    return all(is_object(schema) or type(schema) is bool for schema in properties.values())
