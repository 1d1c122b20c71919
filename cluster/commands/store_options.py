"""Options and arguments of the commands that work on a store of KV files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from kvatlas.index.errors import ConfigError, StoreError

StorePath = Annotated[Path, typer.Argument(help="The store's folder: the one with store.json in it.")]
Threads = Annotated[int, typer.Option(min=1, max=64, help="That list and read files at a time.")]
DEFAULT_THREADS = 4

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {unit + "i": 1 << (10 * power) for power, unit in enumerate(_UNITS) if unit}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?i?)b?", re.IGNORECASE)


def bytes_of(option: str, text: str | None) -> int | None:
    """`500GiB`, `1.5 TB`, `1048576` as a number. Raises ConfigError."""
    if text is None:
        return None
    match = _BYTES.fullmatch(text.strip())
    unit = None if match is None else match[2].lower()
    if match is None or (unit not in _UNITS and unit not in _BINARY):
        raise ConfigError(f"{option}: expected bytes such as 500GiB, got {text!r}")
    return int(float(match[1]) * {**_UNITS, **_BINARY}[unit or ""])


def store_at(root: Path) -> Path:
    """The root as an absolute path, if a store lies there. Raises StoreError."""
    if not root.is_dir():
        raise StoreError(f"{root}: expected the folder of a store, got none")
    if not (root / "store.json").is_file():
        raise StoreError(f"{root}: expected a store, got a folder without store.json")
    return root.absolute()
