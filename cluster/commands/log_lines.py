"""What a service of many days says on stderr: a line an event, for people or for programs."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}


class _JsonLines(logging.Formatter):
    """One event a line; what a program should see stands in fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**event, **_said(record)}, default=str)


class _TextLines(logging.Formatter):
    """The same for people: a sentence, then name=value."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _said(record).items())
        text = f"{self.formatTime(record)} {record.levelname.lower()} {record.getMessage()} {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _said(record: logging.LogRecord) -> dict[str, Any]:
    """What whoever logs has given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _KNOWN}


def log_to_stderr(name: str, *, as_json: bool) -> None:
    """What this logger and those below it say from now on, a line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _TextLines())
    logger = logging.getLogger(name)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
