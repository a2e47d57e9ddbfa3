"""Cassettes: what is in their files, how it gets there, and how a request finds its answer in one.

Nothing here knows of sessions, streams, the SDK or pytest: it works on JSON-RPC messages as the dicts that they are on
the wire. Above: `mcp_intercept._cassette`, which stands between a session and its transport.
"""
