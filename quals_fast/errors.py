"""Errors that a caller may want to catch, wherever they come from."""

from __future__ import annotations


class BackendUnavailableError(RuntimeError):
    """An explicitly chosen backend or device cannot run; nothing falls back silently."""


class InputError(ValueError):
    """A file that cannot be read or written at all; single bad rows do not raise."""
