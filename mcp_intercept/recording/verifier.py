"""`Verifier`: holds what a live server says against what was recorded."""

from __future__ import annotations

from itertools import count
from threading import RLock
from typing import Any

from mcp_intercept.recording.frames import Frame
from mcp_intercept.recording.interactions import Interaction, name_in
from mcp_intercept.recording.matching import HANDSHAKES, Difference, differences, shown
from mcp_intercept.recording.misses import Drift
from mcp_intercept.recording.player import Player
from mcp_intercept.recording.recorder import STATE

# What a server is called, and how it was found out what it speaks, is not what it says.
_OF_HANDSHAKES = frozenset({"protocolVersion", "serverInfo", "_meta", "supportedVersions"})


class Verifier:
    """Compares the answers of live servers with those in a cassette, and writes nothing.

    Args:
        player: The cassette.
    """

    def __init__(self, player: Player) -> None:
        self.drifts: list[Drift] = []
        """What is not as it was, in the order in which it was noticed."""
        self._player = player
        self._lock = RLock()
        self._numbers = count(1)
        self._servers: dict[int, tuple[str, int]] = {}
        self._expected: dict[tuple[int, Any], Interaction] = {}

    def connect(self, server: str) -> int:
        """Begin a connection; the value is its number."""
        with self._lock:
            number = next(self._numbers)
            self._servers[number] = (server, self._player.open(server))
            return number

    def sent(self, number: int, frame: Frame) -> None:
        """The client sends a message."""
        if frame.method is None or frame.id is None:
            return
        with self._lock:
            try:
                self._expect(number, frame, frame.method)
            except Exception as error:
                self.missed(error)

    def _expect(self, number: int, frame: Frame, method: str) -> None:
        server, connection = self._servers[number]
        player = self._player
        params = player.params(method, frame.params)
        with player.lock:
            place = player.find(server, connection, method, params)
            if place is not None:
                self._expected[number, frame.id] = player.load(place)
            elif method not in HANDSHAKES:
                essence = player.rules.essence(method, params)
                missing = Difference("", "(nothing)", shown(essence))
                self.drifts.append(
                    Drift(
                        server=server,
                        method=method,
                        name=name_in(method, params),
                        n=0,
                        differences=(missing,),
                        part="request",
                        option=player.option,
                    )
                )

    def received(self, number: int, frame: Frame) -> None:
        """The client gets a message."""
        if frame.method is not None:
            return
        with self._lock:
            interaction = self._expected.pop((number, frame.id), None)
            if interaction is None:
                return
            try:
                self._compare(interaction, frame)
            except Exception as error:
                self.missed(error)

    def missed(self, error: Exception) -> None:
        """Something could not be compared, which is told at the end."""
        self._player.failures.append(error)

    def _compare(self, interaction: Interaction, frame: Frame) -> None:
        recorded = self._essence(interaction, interaction.result, interaction.error)
        player, method = self._player, interaction.method
        result = None if frame.error is not None else player.result(method, frame.result or {})
        now = self._essence(interaction, result, None if frame.error is None else player.redactor.error(frame.error))
        found = differences(recorded, now)
        if found:
            self._differs(interaction, *found)

    def _differs(self, interaction: Interaction, *found: Difference) -> None:
        self.drifts.append(
            Drift(
                server=interaction.server,
                method=interaction.method,
                name=interaction.name,
                n=interaction.n,
                differences=found,
                option=self._player.option,
            )
        )

    def _essence(
        self, interaction: Interaction, result: dict[str, Any] | None, error: dict[str, Any] | None
    ) -> dict[str, Any]:
        rules, method, name = self._player.rules, interaction.method, interaction.name
        if error is not None:
            return {"error": rules.refusal(method, error, name)}
        if result is None:
            return {}
        if method in HANDSHAKES:
            result = {key: value for key, value in result.items() if key not in _OF_HANDSHAKES}
        if "requestState" in result:
            result = {**result, "requestState": STATE}
        return {"result": rules.answer(method, result, name)}

    def closed(self, number: int, how: str) -> None:
        """The connection has ended, and not by the client."""
        with self._lock:
            for key in [key for key in self._expected if key[0] == number]:
                interaction = self._expected.pop(key)
                recorded = self._essence(interaction, interaction.result, interaction.error)
                gone = Difference("", shown(recorded), f"(closed: {how})")
                if recorded:
                    self._differs(interaction, gone)
