"""Checkpoints of one subscriber: loaded at its start, written every so often, by its newest process only."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Protocol

from kvatlas.index.errors import CheckpointError
from kvatlas.ingest.checkpoints import CheckpointReport

_SESSION_FILE = "session"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_log = logging.getLogger(__name__)


class Saved(Protocol):
    """What is written and read: a `FleetMirror`."""

    def save(self, folder: Path) -> CheckpointReport: ...
    def load(self, folder: Path) -> CheckpointReport: ...


class CheckpointKeeper:
    """Saves a fleet's mirrors to `folder`/`name` every `period_s`, in a thread.

    The folder names the newest session; a process of an older one, back from a pause, finds a newer
    number there and writes no more.
    """

    def __init__(self, mirror: Saved, folder: Path, name: str, session: int, period_s: float) -> None:
        self.folder = folder / _folder_name(name)
        self.counts: Counter[str] = Counter()
        """Checkpoints saved; errors of files loaded and saved; `checkpoints_superseded`."""
        self._mirror = mirror
        self._session = session
        self._period_s = period_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvatlas-checkpoints", daemon=True)

    def load(self) -> int:
        """Read what is there, and claim the folder; returns the number of files read.

        What cannot be read or claimed is logged and counted: it is as if it were not there.
        """
        report = self._mirror.load(self.folder)
        self.counts["checkpoint_errors"] += len(report.errors)
        if self._newest() > self._session:
            return report.files
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / _SESSION_FILE, str(self._session))
        except OSError as error:
            _log.warning("checkpoints: expected a folder to write to, got %s", error)
            self.counts["checkpoint_errors"] += 1
        return report.files

    def start(self) -> None:
        self._thread.start()

    def save(self) -> bool:
        """Write all that is held now; False: nothing was written, or not all."""
        if self._newest() > self._session:
            self.counts["checkpoints_superseded"] += 1
            return False
        try:
            report = self._mirror.save(self.folder)
        except CheckpointError as error:
            _log.warning("checkpoint: %s", error)
            self.counts["checkpoint_errors"] += 1
            return False
        for said in report.errors:
            _log.warning("checkpoint: %s", said)
        self.counts["checkpoint_errors"] += len(report.errors)
        self.counts["checkpoints"] += 1
        return not report.errors

    def stop(self) -> None:
        """Write no more; one under way is finished. Twice is fine."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            self.save()

    def _newest(self) -> int:
        try:
            return int((self.folder / _SESSION_FILE).read_text())
        except (OSError, ValueError):
            return 0


def _folder_name(name: str) -> str:
    """A name becomes a folder's: as it is where it is plain, else its digest."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _write(path: Path, text: str) -> None:
    number, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    with os.fdopen(number, "w") as file:
        file.write(text)
    os.replace(name, path)
