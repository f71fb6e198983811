"""Triton where it is installed, and an inert stand-in for it where it is not.

Op files take `triton` and `tl` from here, so that their eager halves import without Triton. A
launcher must not be called without it: ask `HAS_TRITON` first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

    class _Triton(Protocol):
        """What op files use of `triton`; typed, so that `@triton.jit` hides no annotation."""

        __version__: str

        def jit(self, fn: Callable[..., Any], /) -> Any: ...

    triton: _Triton
    HAS_TRITON: bool
else:
    try:
        import triton
        import triton.language as tl

        HAS_TRITON = True
    except ModuleNotFoundError:

        class _Inert:
            """Gives back what it is called with: `jit` its function, `constexpr` its value."""

            def __getattr__(self, name: str) -> Callable[[Any], Any]:
                return lambda value: value

        triton, tl = _Inert(), _Inert()
        HAS_TRITON = False

__all__ = ["HAS_TRITON", "tl", "triton", "triton_version"]


def triton_version() -> str | None:
    """Return Triton's version, or None where it is not installed."""
    return triton.__version__ if HAS_TRITON else None
