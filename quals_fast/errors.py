"""Errors that a caller may want to catch, wherever they come from."""

from __future__ import annotations


class BackendUnavailableError(RuntimeError):
    """A chosen backend, device or precision is not available; nothing falls back silently."""


class InputError(ValueError):
    """A file cannot be read or written at all. Single bad rows do not raise."""
