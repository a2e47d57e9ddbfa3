"""Cassettes: what is in their files, how it gets there, and how a request finds its answer in one.

Nothing here knows of sessions, streams, the SDK or pytest: it works on JSON-RPC messages as the dicts that they are on
the wire. Above: `use_cassette()`, which stands between a session and its transport.
"""

from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.matching import Difference
from mcp_intercept.recording.misses import MISS_CODE, Drift, Miss, Nearest, Source
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.scan import Finding, scan

__all__ = [
    "MISS_CODE",
    "Difference",
    "Drift",
    "Finding",
    "Interaction",
    "Miss",
    "Nearest",
    "Redaction",
    "Redactor",
    "Source",
    "scan",
]
