"""Runs the Python blocks of the README as they stand, in order, as one program, in a folder of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

_leave: list[Callable[[], None]] = []


def _enter_folder(namespace: dict[str, Any]) -> None:
    folder, before = tempfile.TemporaryDirectory(), os.getcwd()
    _leave.extend([folder.cleanup, lambda: os.chdir(before)])
    os.chdir(folder.name)


def _leave_folder(namespace: dict[str, Any]) -> None:
    while _leave:
        _leave.pop()()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md"], setup=_enter_folder, teardown=_leave_folder
).pytest()
