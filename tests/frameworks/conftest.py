"""Gives every test here the fixture `server`."""

from tests.frameworks.seen import server

__all__ = ["server"]
