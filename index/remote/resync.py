"""What a server may say to a writer besides that it is down: what was told is lost, or the writer is over."""

from __future__ import annotations

from kvatlas.index.errors import RemoteIndexError


class ResyncNeeded(RemoteIndexError):  # noqa: N818  (a command to its caller)
    """The server has lost, or never had, what this session told: all content must be loaded anew."""


class SessionOver(RemoteIndexError):  # noqa: N818  (a fact that every writer must expect)
    """The session's lease ran out and others have ended it: begin another, with lanes of its own."""
