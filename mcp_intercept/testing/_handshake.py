"""How a scripted server introduces itself, in either era of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from mcp_intercept._options import check_choice
from mcp_intercept._sdk import types
from mcp_intercept.recording.eras import SERVER_INFO, capabilities_of
from mcp_intercept.testing._line import Frame, make_error

# Of `initialize`, and the one that does without.
_HANDSHAKES = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
_MODERN = "2026-07-28"
_UNSUPPORTED_VERSION = -32022


class Handshake:
    """What a server says of itself.

    Args:
        name: What it calls itself.
        version: Its version.
        instructions: Its instructions for the client.
        capabilities: Its capabilities; by default those of what is scripted.
        protocol_version: The only version of the protocol that it speaks; by default all.

    Raises:
        InterceptError: There is no such version of the protocol.
    """

    def __init__(
        self,
        name: str,
        version: str,
        instructions: str | None,
        capabilities: Mapping[str, Any] | None,
        protocol_version: str | None,
    ) -> None:
        check_choice("protocol_version", protocol_version, (None, *_HANDSHAKES, _MODERN))
        self._info = {"name": name, "version": version}
        self._instructions = {} if instructions is None else {"instructions": instructions}
        self._capabilities = capabilities
        self._protocol_version = protocol_version

    def initialize(self, requested: Any, scripted: Set[str]) -> Frame:
        """The result of `initialize`, or the error that is raised.

        Args:
            requested: The version that the client asks for.
            scripted: The methods that have scripts.
        """
        if self._protocol_version == _MODERN:
            data = {"supported": [_MODERN], "requested": requested}
            raise make_error(_UNSUPPORTED_VERSION, "Unsupported protocol version", data)
        offered = requested if requested in _HANDSHAKES else _HANDSHAKES[-1]
        return {
            "protocolVersion": self._protocol_version or offered,
            "capabilities": self._capable_of(scripted),
            "serverInfo": self._info,
            **self._instructions,
        }

    def discover(self, scripted: Set[str]) -> Frame:
        """The result of `server/discover`, or the error that is raised."""
        if self._protocol_version in _HANDSHAKES:
            raise make_error(types.METHOD_NOT_FOUND, "Method not found")
        return {
            "supportedVersions": [_MODERN],
            "capabilities": self._capable_of(scripted),
            **self._instructions,
            "_meta": {SERVER_INFO: self._info},
        }

    def _capable_of(self, scripted: Set[str]) -> Frame:
        return capabilities_of(scripted) if self._capabilities is None else dict(self._capabilities)
