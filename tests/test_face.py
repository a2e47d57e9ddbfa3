"""The public face: its names, where they come from, and the tree of errors."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys
from ast import literal_eval
from types import ModuleType
from typing import Any, get_origin

import pytest

import mcp_intercept
from mcp_intercept import InterceptError, errors, methods

FACE = [
    "AnyMiddleware",
    "CallOptions",
    "CallbackClientSession",
    "Cassette",
    "Direction",
    "Exchange",
    "FrameListener",
    "InterceptError",
    "Kind",
    "MCPResponseContext",
    "Middleware",
    "MiddlewareContext",
    "MiddlewareError",
    "MiddlewareManager",
    "NextFunctionT",
    "Outcome",
    "ProgressCallback",
    "connect",
    "hook",
    "intercept",
    "intercept_all",
    "use_cassette",
]

# What `from __future__` and typing leave in a module that uses them.
LEFT_BY_PYTHON = {"annotations", "TYPE_CHECKING"}


def public_names(module: ModuleType) -> set[str]:
    """What looks public in a module, besides the modules inside it."""
    names = {name for name, value in vars(module).items() if not isinstance(value, ModuleType)}
    return {name for name in names if not name.startswith("_")} - LEFT_BY_PYTHON


def test_the_face_is_exactly_this() -> None:
    assert mcp_intercept.__all__ == FACE


def test_no_name_leaks_from_the_face() -> None:
    assert [name for name in FACE if not hasattr(mcp_intercept, name)] == []  # each is imported when first used
    assert public_names(mcp_intercept) == set(FACE)


def test_the_face_shows_its_names_before_they_are_used() -> None:
    script = "import mcp_intercept, sys; print([*dir(mcp_intercept)]); assert 'mcp' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {*FACE, "errors", "methods", "middleware"} <= {*literal_eval(run.stdout)}


def test_public_modules_need_no_import_of_their_own() -> None:
    script = (
        "import mcp_intercept; mcp_intercept.errors.InterceptError; mcp_intercept.middleware; mcp_intercept.methods"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_name_of_the_face_is_found() -> None:
    assert all(hasattr(mcp_intercept, name) for name in mcp_intercept.__all__)
    namespace: dict[str, Any] = {}
    exec("from mcp_intercept import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(FACE)


@pytest.mark.parametrize("module", [errors, methods], ids=["errors", "methods"])
def test_a_public_module_defines_what_it_lists(module: ModuleType) -> None:
    defined = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}

    assert {name for name in defined if not name.startswith("_")} <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_every_public_thing_has_a_docstring() -> None:
    face = [getattr(mcp_intercept, name) for name in mcp_intercept.__all__]
    # On Python 3.10 the alias of a Callable passes for a class.
    documented = [
        thing for thing in face if inspect.isfunction(thing) or (isinstance(thing, type) and not get_origin(thing))
    ]
    documented += [value for thing in documented for name, value in vars(thing).items() if is_public(name, value)]

    assert [thing for thing in documented if not inspect.getdoc(thing)] == []


def is_public(name: str, value: object) -> bool:
    return not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))


def test_the_errors_of_the_face_are_those_of_the_tree() -> None:
    assert mcp_intercept.InterceptError is errors.InterceptError
    assert mcp_intercept.MiddlewareError is errors.MiddlewareError


TREE: list[tuple[type[Exception], tuple[type, ...]]] = [
    (errors.InterceptError, (Exception,)),
    (errors.MiddlewareError, (InterceptError,)),
    (errors.SessionStateError, (InterceptError, RuntimeError)),
    (errors.UnsupportedTargetError, (InterceptError, TypeError)),
    (errors.BroadcastError, (InterceptError,)),
    (errors.MissingExtraError, (InterceptError, ImportError)),
    (errors.CassetteError, (InterceptError,)),
    (errors.CassetteFormatError, (errors.CassetteError,)),
    (errors.CassetteLockedError, (errors.CassetteError,)),
    (errors.CassetteMissError, (errors.CassetteError,)),
    (errors.CassetteDriftError, (errors.CassetteError,)),
    (errors.CassetteWarning, (UserWarning,)),
]


@pytest.mark.parametrize(("error", "bases"), TREE, ids=lambda value: getattr(value, "__name__", ""))
def test_an_error_stands_where_the_tree_shows_it(error: type[Exception], bases: tuple[type, ...]) -> None:
    assert error.__bases__ == bases
    [line] = [line for line in (errors.__doc__ or "").splitlines() if error.__name__ in line]
    assert re.findall(r"also an? (\w+)", line) == [base.__name__ for base in bases[1:]]


def test_the_tree_shows_every_error() -> None:
    drawn = re.findall(r"^ *[├└─ ]*(\w+(?:Error|Warning))\b", errors.__doc__ or "", re.MULTILINE)

    assert sorted(drawn) == errors.__all__
    assert {error.__name__ for error, _ in TREE} == {*errors.__all__}


def test_errors_carry_their_facts() -> None:
    target = object()
    failures = {"session": ValueError("no")}

    assert errors.MiddlewareError("x").middleware is None
    assert errors.MiddlewareError("x").method is None
    assert errors.UnsupportedTargetError("x", target=target).target is target
    assert errors.BroadcastError("x", failures=failures).failures == failures
    assert errors.BroadcastError("x", failures=failures).failures is not failures


def test_a_missing_extra_says_what_to_install() -> None:
    error = errors.MissingExtraError("FancyMiddleware", "fancy")

    assert error.extra == "fancy"
    assert str(error) == (
        "FancyMiddleware needs an optional dependency that is not installed; "
        'the extra "fancy" brings it: pip install "mcp-intercept-sdk[fancy]"'
    )


def test_the_version_is_that_of_the_distribution() -> None:
    assert mcp_intercept.__version__ == importlib.metadata.version("mcp-intercept-sdk")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mcp_intercept.nothing  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore
