"""The histograms of the conventions, with labels of which there are never too many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.metrics import Histogram, Meter

from mcp_intercept._otel import semconv
from mcp_intercept._otel.facts import OWN_TYPES, Ending, Subject, is_known, short_name

# Few enough for what OpenTelemetry's SDK itself can hold: 2000 sets of labels for each instrument.
_MAX_VALUES = 200
_MAX_NAMES = 1000


class _Bounded:
    """The values of a label, of which there may be only so many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: set[str] = set()

    def add(self, value: str) -> None:
        if len(self._values) < self._limit:
            self._values.add(value)

    def __contains__(self, value: str) -> bool:
        return value in self._values

    def admit(self, value: str) -> str:
        self.add(value)
        return value if value in self._values else semconv.OTHER


class Durations:
    """Records how long operations and sessions take.

    The names of tools and prompts are labels only if a server has listed them, or has answered a call of them well:
    what a model makes up is `_OTHER`. So is what a server invents in methods and error codes, beyond a number.

    Args:
        meter: Where to record.
        uris: Whether the URIs of resources are labels.
    """

    def __init__(self, meter: Meter, *, uris: bool) -> None:
        self._uris = uris
        self._names = {name: _Bounded(_MAX_NAMES) for name in (semconv.TOOL_NAME, semconv.PROMPT_NAME)}
        self._methods = _Bounded(_MAX_VALUES)
        self._codes = _Bounded(_MAX_VALUES)
        self._types = _Bounded(_MAX_VALUES)
        self._resources = _Bounded(_MAX_VALUES)
        self._client = _histogram(
            meter,
            semconv.CLIENT_OPERATION_DURATION,
            "The duration of the MCP request or notification as observed on the sender "
            "from the time it was sent until the response or ack is received.",
        )
        self._server = _histogram(
            meter,
            semconv.SERVER_OPERATION_DURATION,
            "MCP request or notification duration as observed on the receiver "
            "from the time it was received until the result or ack is sent.",
        )
        self._session = _histogram(
            meter, semconv.CLIENT_SESSION_DURATION, "The duration of the MCP session as observed on the MCP client."
        )

    def learn(self, method: str, result: Any) -> None:
        """Note the names in a list of tools or prompts."""
        names = semconv.TOOL_NAME if method == "tools/list" else semconv.PROMPT_NAME
        listed: Iterable[Any] = getattr(result, "tools" if method == "tools/list" else "prompts", ())
        for entry in listed:
            self._names[names].add(short_name(entry.name))

    def record_operation(
        self,
        seconds: float,
        method: str,
        subject: Subject,
        ending: Ending,
        known: dict[str, Any],
        *,
        served: bool,
        has_listed: bool,
    ) -> None:
        """Record a request or notification.

        Args:
            seconds: How long it took.
            method: The wire name.
            subject: What it was about.
            ending: How it ended.
            known: The labels that all messages of the session have.
            served: Whether it was the server that sent it.
            has_listed: Whether the server has said which names there are.
        """
        labels: dict[str, Any] = {semconv.METHOD_NAME: self._method(method, served=served), **known}
        if method == "tools/call":
            labels[semconv.OPERATION_NAME] = semconv.EXECUTE_TOOL
        if subject.attribute is not None and subject.name is not None:
            names = self._names[subject.attribute]
            if not has_listed and ending.error_type is None:
                names.add(subject.name)
            labels[subject.attribute] = subject.name if subject.name in names else semconv.OTHER
        if subject.uri is not None and self._uris:
            labels[semconv.RESOURCE_URI] = self._resources.admit(subject.uri)
        if ending.error_type is not None:
            labels[semconv.ERROR_TYPE] = self._type(ending.error_type)
        if ending.status_code is not None:
            labels[semconv.STATUS_CODE] = self._codes.admit(ending.status_code)
        (self._server if served else self._client).record(seconds, labels)

    def record_session(self, seconds: float, error_type: str | None, known: dict[str, Any]) -> None:
        """Record a session that has ended."""
        labels = known if error_type is None else {**known, semconv.ERROR_TYPE: self._type(error_type)}
        self._session.record(seconds, labels)

    def _type(self, error_type: str) -> str:
        # However many codes a server has, those that are our own stay.
        return error_type if error_type in OWN_TYPES else self._types.admit(error_type)

    def _method(self, method: str, *, served: bool) -> str:
        if is_known(method):
            return method
        # What the user's own program sends is not made up by anybody.
        return semconv.OTHER if served else self._methods.admit(method)


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=semconv.BUCKETS
    )
