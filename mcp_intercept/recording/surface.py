"""`Surface`: what a server offers, as far as its recorded answers say.

Not known here: what a change of it means to those who know it as it was. That is `compatibility.py`, above.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mcp_intercept.recording.eras import SERVER_INFO, meta_of
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.matching import HANDSHAKES
from mcp_intercept.recording.values import as_array, as_object

Entries: TypeAlias = "Mapping[str, dict[str, Any]]"
"""Tools, prompts, resources or templates, as the server listed them, by name, URI or template."""

_LISTS: Final = {
    "tools": ("tools/list", "tools", "name"),
    "prompts": ("prompts/list", "prompts", "name"),
    "resources": ("resources/list", "resources", "uri"),
    "templates": ("resources/templates/list", "resourceTemplates", "uriTemplate"),
}
"""For each part of a surface: the method that lists it, the key of its entries in the result, and of their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """What a server offers. What was never asked for, or not to the last page, is `None`."""

    tools: Entries | None = None
    prompts: Entries | None = None
    resources: Entries | None = None
    """By URI."""
    templates: Entries | None = None
    """Of resources, by URI template."""
    capabilities: dict[str, Any] | None = None
    server_info: dict[str, Any] | None = None
    """Its name, version and the like."""
    protocol_version: str | None = None
    """The one that was agreed on, or the latest that a server of protocol 2026-07-28 or later says it supports."""
    instructions: str | None = None

    @classmethod
    def of(cls, interactions: Iterable[Interaction], server: str) -> Surface:
        """What the last answers of a server say of it.

        Args:
            interactions: What was recorded, in order.
            server: The name of the server within the cassette.
        """
        handshake: dict[str, Any] = {}
        listings = {method: _Listing(key, name) for method, key, name in _LISTS.values()}
        for interaction in interactions:
            result = interaction.result
            if interaction.server != server or result is None:
                continue
            if interaction.method in HANDSHAKES:
                handshake = result
            elif interaction.method in listings:
                listings[interaction.method].add((interaction.params or {}).get("cursor"), result)
        return cls(
            **{part: listings[method].entries for part, (method, _, _) in _LISTS.items()},
            capabilities=as_object(handshake.get("capabilities")),
            server_info=as_object(handshake.get("serverInfo")) or as_object(meta_of(handshake).get(SERVER_INFO)),
            protocol_version=_as_text(handshake.get("protocolVersion"))
            or max(filter(None, map(_as_text, as_array(handshake.get("supportedVersions")))), default=None),
            instructions=_as_text(handshake.get("instructions")),
        )


class _Listing:
    """The entries of one kind, put together from pages."""

    def __init__(self, key: str, name: str) -> None:
        self._key = key
        self._name = name
        self._unfinished: dict[object, dict[str, dict[str, Any]]] = {}
        self.entries: Entries | None = None

    def add(self, cursor: object, result: dict[str, Any]) -> None:
        """Take a page.

        Args:
            cursor: Which one was asked for; `None` is the first.
            result: The answer.
        """
        before = {} if cursor is None else self._unfinished.get(str(cursor))
        if before is None:
            return  # a page in the middle, of a listing whose beginning is not known
        page = [entry for item in as_array(result.get(self._key)) if (entry := as_object(item)) is not None]
        entries = before | {str(entry[self._name]): entry for entry in page if self._name in entry}
        if (following := result.get("nextCursor")) is None:
            self.entries = entries
        else:
            self._unfinished[str(following)] = entries


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
