"""The built-in middlewares: one file each, imported when the class is first used.

A new one is its file, its row in `_BUILT_INS`, and the import that shows it to type checkers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mcp_intercept.errors import MissingExtraError

# The class, the module of this package that has it, and the extra which brings what that module imports.
_BUILT_INS: dict[str, tuple[str, str | None]] = {
    "LoggingMiddleware": ("logging", None),
    "MetricsMiddleware": ("metrics", None),
    "TracingMiddleware": ("tracing", None),
}

__all__ = [*_BUILT_INS]  # pyright: ignore[reportUnsupportedDunderAll] - the aliases below tell it what is exported

if TYPE_CHECKING:
    from mcp_intercept.middleware.logging import LoggingMiddleware as LoggingMiddleware
    from mcp_intercept.middleware.metrics import MetricsMiddleware as MetricsMiddleware
    from mcp_intercept.middleware.tracing import TracingMiddleware as TracingMiddleware
else:
    # Hidden from type checkers, which would take any name for an attribute.
    def __getattr__(name: str) -> Any:
        if name not in _BUILT_INS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, extra = _BUILT_INS[name]
        try:
            built_in = getattr(import_module(f"{__name__}.{module}"), name)
        except ImportError as error:
            # What this package itself fails to import is a fault of ours that no extra mends.
            if extra is None or (error.name or "").partition(".")[0] == "mcp_intercept":
                raise
            raise MissingExtraError(name, extra) from error
        # From now on it is found without coming here.
        globals()[name] = built_in
        return built_in


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
