"""A receiver of OTLP over HTTP, on loopback: what a collector would get, as lines of JSON.

python -m tests.otlp PORT FILE     prints its URL; with port 0, any that is free

In tests, `receiver()` runs it in a process of its own. What was sent is in its file before the sender hears so; nothing
is left to wait for once a program that sends has ended.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

ROOT = Path(__file__).parent.parent

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedSpan:
    """A span, with ids in hex; `parent_id` is empty in a root."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    error: bool
    description: str
    seconds: float
    attributes: dict[str, Any]
    service: str
    scope: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedPoint:
    """A data point of a histogram."""

    name: str
    unit: str
    count: int
    sum: float
    bounds: list[float]
    attributes: dict[str, Any]
    service: str
    scope: str


class Received:
    """What a receiver has got."""

    def __init__(self, url: str, file: Path) -> None:
        self.url = url
        self._file = file

    def _records(self, what: str) -> Iterator[Record]:
        complete, _, _ = self._file.read_text("utf-8").rpartition("\n")  # the last line may just be written
        for text in complete.splitlines():
            record = json.loads(text)
            if record.pop("record") == what:
                yield record

    @property
    def spans(self) -> list[ReceivedSpan]:
        return [ReceivedSpan(**record) for record in self._records("span")]

    @property
    def points(self) -> list[ReceivedPoint]:
        return [ReceivedPoint(**record) for record in self._records("point")]

    @property
    def paths(self) -> set[str]:
        """What was posted to."""
        return {record["path"] for record in self._records("request")}

    def span(self, name: str, kind: str = "CLIENT") -> ReceivedSpan:
        """The one span of this name and kind."""
        found = [span for span in self.spans if (span.name, span.kind) == (name, kind)]
        assert len(found) == 1, [(span.name, span.kind, span.service) for span in self.spans]
        return found[0]

    def wait_for(self, what: Callable[[Received], Any]) -> None:
        """Wait until what has come satisfies `what`."""
        deadline = monotonic() + 20
        while not what(self):
            assert monotonic() < deadline, self.spans
            sleep(0.02)


@contextmanager
def receiver(file: Path) -> Generator[Received, None, None]:
    """Receive into `file`."""
    file.touch()
    command = [sys.executable, "-m", "tests.otlp", "0", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().strip()
            assert url, "the receiver does not listen"
            yield Received(url, file)
        finally:
            process.terminate()


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _attributes(pairs: Any) -> Record:
    return {pair.key: _value(pair.value) for pair in pairs}


def _spans(body: bytes) -> Iterator[Record]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "record": "span",
                    "name": span.name,
                    "kind": trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "error": span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    "description": span.status.message,
                    "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    "attributes": _attributes(span.attributes),
                    "service": service,
                    "scope": scope.scope.name,
                }


def _points(body: bytes) -> Iterator[Record]:
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.histogram.data_points:
                    yield {
                        "record": "point",
                        "name": metric.name,
                        "unit": metric.unit,
                        "count": point.count,
                        "sum": point.sum,
                        "bounds": list(point.explicit_bounds),
                        "attributes": _attributes(point.attributes),
                        "service": service,
                        "scope": scope.scope.name,
                    }


_DECODED: dict[str, tuple[Callable[[bytes], Iterator[Record]], bytes]] = {
    "/v1/traces": (_spans, ExportTraceServiceResponse().SerializeToString()),
    "/v1/metrics": (_points, ExportMetricsServiceResponse().SerializeToString()),
}


def _serve(port: int, file: Path) -> None:
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            decode, answer = _DECODED.get(self.path, (lambda body: iter(()), b""))
            records = [{"record": "request", "path": self.path}, *decode(body)]
            with lock, file.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(record) + "\n" for record in records)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
