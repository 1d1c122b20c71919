"""The scripts that run on the server, as they lie in scripts/."""

from __future__ import annotations

from pathlib import Path

from kvatlas.index.remote.connection.connection import RemoteConnection

_FOLDER = Path(__file__).parent / "scripts"


class Scripts:
    """Each by its name, known to the connection."""

    def __init__(self, connection: RemoteConnection) -> None:
        self.apply = connection.script(_source("apply"))
        self.claim = connection.script(_source("claim"))
        self.flip = connection.script(_source("flip"))
        self.join = connection.script(_source("join"))
        self.match = connection.script(_source("match"))
        self.open = connection.script(_source("open"))
        self.page = connection.script(_source("page"))
        self.scrub = connection.script(_source("scrub"))
        self.touch = connection.script(_source("touch"))
        self.trim = connection.script(_source("trim"))


def _source(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
