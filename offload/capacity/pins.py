"""Pins: keys and whole spaces that no evictor deletes. One file a pin, in control/pins.

{"format": 1, "space": NAME, "keys": [HEX, ...] or null for the whole space, "note": TEXT, "made_unix_s": N}
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from kvatlas.index.errors import InputError, StoreError
from kvatlas.offload.capacity.control import CONTROL, ControlFolder, read_small, write_small

FORMAT = 1
KEYS_MAX = 1_000_000
"""Of all pins together: they are held in memory."""
_FILE_BYTES_MAX = 256 << 20
_FILES_MAX = 65_536
_SUFFIX = ".pin"


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """What one file pins."""

    format: int = FORMAT
    space: str
    keys: tuple[str, ...] | None
    """In hex; None: all of the space, also what comes later."""
    note: str = ""
    made_unix_s: float = 0.0


class Pins:
    """What is pinned in a store now. Immutable."""

    def __init__(self, pins: Iterable[Pin], mark: int = 0) -> None:
        self._spaces: set[str] = set()
        self._keys: dict[str, set[bytes]] = {}
        self.mark = mark
        """Another one in the folder means: read them again."""
        for pin in pins:
            if pin.keys is None:
                self._spaces.add(pin.space)
            else:
                self._keys.setdefault(pin.space, set()).update(map(bytes.fromhex, pin.keys))

    @property
    def spaces(self) -> list[str]:
        """That are pinned as a whole."""
        return sorted(self._spaces)

    @property
    def n_keys(self) -> int:
        return sum(map(len, self._keys.values()))

    def is_pinned(self, space: str, key: bytes) -> bool:
        return space in self._spaces or key in self._keys.get(space, ())


def read_pins(control: ControlFolder) -> Pins:
    """All pins. Raises StoreError where one cannot be understood: nothing may be deleted then; OSError."""
    mark, pins, n_keys = pins_mark(control), [], 0
    for path in _files(control):
        with contextlib.suppress(FileNotFoundError):  # unpinned meanwhile
            pin = read_pin(path)
            pins.append(pin)
            n_keys += len(pin.keys or ())
        if n_keys > KEYS_MAX:
            raise StoreError(f"{control.pins}: expected at most {KEYS_MAX} pinned keys, got more")
    return Pins(pins, mark)


def pins_mark(control: ControlFolder) -> int:
    """Changes when pins come or go. Raises OSError."""
    try:
        # A date alone would not tell of a pin that comes within the same tick of the file server's clock.
        return hash((os.stat(control.pins).st_mtime_ns, frozenset(os.listdir(control.pins))))
    except FileNotFoundError:
        return 0


def read_pin(path: Path) -> Pin:
    """Raises StoreError, OSError."""
    try:
        pin = msgspec.json.decode(read_small(path, _FILE_BYTES_MAX), type=Pin)
        for key in pin.keys or ():
            bytes.fromhex(key)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(f"{path}: expected a pin, {error}; nothing is evicted while it is there") from error
    if pin.format != FORMAT:
        raise StoreError(
            f"{path}: expected format {FORMAT}, got {pin.format}; nothing is evicted while it is there"
        )
    return pin


def write_pin(control: ControlFolder, space: str, keys: Sequence[bytes] | None, note: str = "") -> Path:
    """Pins keys of a space, or all of it; returns the file. Raises InputError, StoreError, OSError."""
    is_name = space and space != CONTROL and not space.startswith(".") and "/" not in space
    if not is_name or not (control.root / space).is_dir():
        raise InputError(f"space: expected a folder of {control.root}, got {space!r}")
    if keys is not None and len(keys) + read_pins(control).n_keys > KEYS_MAX:
        raise InputError(f"keys: expected at most {KEYS_MAX} pinned keys in all, got more")
    pin = Pin(
        space=space,
        keys=None if keys is None else tuple(key.hex() for key in keys),
        note=note,
        made_unix_s=round(time.time(), 3),
    )
    control.prepare()
    path = control.pins / f"{secrets.token_hex(8)}{_SUFFIX}"
    write_small(path, msgspec.json.encode(pin))
    return path


def remove_pins(control: ControlFolder, space: str, keys: Sequence[bytes] | None) -> int:
    """Unpins keys of a space, or all that is pinned of it (None); returns how many pins went.

    A key of a space that is pinned as a whole stays pinned. Raises StoreError, OSError.
    """
    gone, wanted = 0, None if keys is None else {key.hex() for key in keys}
    for path in _files(control):
        pin = read_pin(path)
        if pin.space != space or (wanted is not None and pin.keys is None):
            continue
        left = () if wanted is None else tuple(key for key in pin.keys or () if key not in wanted)
        gone += 1 if pin.keys is None else len(pin.keys) - len(left)
        if not left:
            path.unlink(missing_ok=True)
        elif len(left) < len(pin.keys or ()):
            write_small(path, msgspec.json.encode(msgspec.structs.replace(pin, keys=left)))
    return gone


def _files(control: ControlFolder) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(control.pins) if name.endswith(_SUFFIX))
    except FileNotFoundError:
        return []
    if len(names) > _FILES_MAX:
        raise StoreError(f"{control.pins}: expected at most {_FILES_MAX} pins, got {len(names)}")
    return [control.pins / name for name in names]
