"""`cassette serve --http`: the application on a port, until somebody ends it."""

from __future__ import annotations

import socket
import sys

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from mcp_intercept._cassette_cli.http_app import LOOPBACK, ORIGIN, PATH, SESSION, App
from mcp_intercept._cassette_cli.serve import Served


class _Server(uvicorn.Server):
    """One that does not wait for clients who only listen."""

    def __init__(self, config: uvicorn.Config, app: App, listener: socket.socket) -> None:
        super().__init__(config)
        self._app = app
        self._listener = listener

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until somebody ends it."""
        with self._listener:
            await super().serve(sockets or [self._listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is on its way."""
        self._app.close()
        await super().shutdown(sockets)


def listen(cassette: Served, host: str, port: int) -> tuple[uvicorn.Server, str]:
    """Take a port.

    Args:
        cassette: What is served there.
        host: A name or address of this machine.
        port: The port; 0 for one that is free.

    Returns:
        The server, which listens already and is to be run, and its URL.

    Raises:
        OSError: The port cannot be had.
    """
    if host not in LOOPBACK:
        sys.stderr.write(f"mcp-intercept: everybody who can reach {host} can talk to this server\n")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    # Else what is sent in two parts, as HTTP answers are, waits for the client to confirm the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app = App(cassette, host)
    # Clients may be pages, too, as long as they come from this machine.
    with_cors = CORSMiddleware(
        app,
        allow_origin_regex=ORIGIN.pattern,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=[SESSION],
    )
    config = uvicorn.Config(
        with_cors, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1, access_log=False
    )
    shown = f"[{host}]" if ":" in host else host
    return _Server(config, app, listener), f"http://{shown}:{listener.getsockname()[1]}{PATH}"


def serve_http(cassette: Served, host: str, port: int) -> int:
    """Serve as streamable HTTP until somebody ends the process; the value is the exit code.

    Raises:
        OSError: It cannot listen there.
    """
    server, url = listen(cassette, host, port)
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    server.run()
    return 0
