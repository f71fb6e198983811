"""Errors that a caller may want to catch, wherever they come from."""

from __future__ import annotations


class BackendUnavailableError(RuntimeError):
    """An explicitly chosen backend or device cannot run; nothing falls back silently."""
