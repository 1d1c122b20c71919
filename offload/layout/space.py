"""Stores and spaces: opening the folders of chunk files, and refusing foreign ones.

<root>/store.json                     which store this is
<root>/<model>-<16 hex>/config.json   a space: the fields that decide its bytes
<root>/<model>-<16 hex>/<part>/       chunk files; whose bytes: "all" (of all ranks together), "r<rank>"
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any, Literal

import msgspec

from kvatlas.index.errors import ConfigError, StoreError, quoted
from kvatlas.offload.layout.fingerprint import SpaceFields, checked_part
from kvatlas.offload.layout.written_once import read_small, write_once

STORE_FILE = "store.json"
CONFIG_FILE = "config.json"
STORE_VERSION = 1
_STORE_BYTES_MAX = 65536
_CONFIG_BYTES_MAX = 16 << 20
_NAME_CHARACTERS_MAX = 256


class StoreIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """store.json: which store lies here."""

    format: Literal["kvatlas-store"] = "kvatlas-store"
    version: int = STORE_VERSION
    name: str
    """As configurations and the index name it."""
    id: str
    """32 hex, random: two mounts with one id are one store."""
    created_by: str
    """Program and version."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """An opened part of a space."""

    root: Path
    name: str
    """Of the space's folder."""
    part: str
    part_folder: Path
    """The chunk files' folders lie in it."""
    fingerprint: bytes
    """16 bytes, of space and part: in the head of every file."""
    fields: SpaceFields
    identity: StoreIdentity

    @property
    def folder(self) -> Path:
        """The space's own."""
        return self.root / self.name


def new_identity(name: str) -> StoreIdentity:
    """A new store's identity. Raises ConfigError for a name that is empty, long or unprintable."""
    if not name or len(name) > _NAME_CHARACTERS_MAX or not name.isprintable():
        expected = f"a name of 1 to {_NAME_CHARACTERS_MAX} printable characters"
        raise ConfigError(f"store: expected {expected}, got {name[:64]!r}")
    return StoreIdentity(name=name, id=secrets.token_hex(16), created_by=f"kvatlas {_version()}")


def read_identity(where: str | Path, content: bytes, name: str | None = None) -> StoreIdentity:
    """What a store.json says. Raises StoreError where it is none, or not that of the store `name`."""
    try:
        said: Any = msgspec.json.decode(content)
        version = said.get("version") if isinstance(said, dict) else None
        if version != STORE_VERSION:
            raise StoreError(
                f"{where}: expected a store of version {STORE_VERSION}, got {quoted(version, 64)}"
            )
        identity = msgspec.convert(said, StoreIdentity)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(
            f"{where}: expected a store's identity, got something else: {quoted(error)}"
        ) from None
    if name is not None and identity.name != name:
        raise StoreError(f"{where}: expected store {name!r}, got {quoted(identity.name, 256)!r}")
    return identity


def check_config(where: str | Path, content: bytes, fields: SpaceFields) -> None:
    """Compares a config.json with what it should say. Raises StoreError, naming a difference."""
    expected = fields.encode()
    if content == expected:
        return
    try:
        ours, theirs = json.loads(expected), json.loads(content)
        name = next(name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name))
        difference = f"expected {name} {ours.get(name)!r}, got {quoted(repr(theirs.get(name)), 256)}"
    except (ValueError, TypeError, AttributeError, StopIteration, RecursionError):
        difference = f"expected the {len(expected)} bytes of these fields, got {len(content)} others"
    raise StoreError(f"{where}: {difference}")


def open_store(root: Path, name: str, *, writable: bool = True) -> StoreIdentity:
    """The store at `root`, made there if there is none and `writable`; the folder above the root must exist.

    Raises StoreError where it is another store, of another version, or cannot be read or made.
    """
    made = new_identity(name)
    path = root / STORE_FILE
    content = read_small(path, _STORE_BYTES_MAX)
    if content is None and writable:
        content = _make(root, path, msgspec.json.encode(made))
    if content is None:
        raise StoreError(f"{path}: expected a store, got none, and it is opened for reading only")
    return read_identity(path, content, name)


def open_space(
    root: Path, fields: SpaceFields, *, store: str, part: str = "all", writable: bool = True
) -> Space:
    """The folder for these fields in the store named `store`, made if `writable`. Works on files.

    Raises StoreError where something else lies there, or it cannot be read or made; ConfigError for a bad
    name or part.
    """
    checked_part(part)
    identity = open_store(root, store, writable=writable)
    folder = root / fields.space_name()
    path = folder / CONFIG_FILE
    content = read_small(path, _CONFIG_BYTES_MAX)
    if content is None and writable:
        content = _make(folder, path, fields.encode())
    if content is None:
        raise StoreError(f"{path}: expected a space, got none, and the store is opened for reading only")
    check_config(path, content, fields)
    part_folder = folder / part
    if writable:
        _make_folder(part_folder)
    return Space(
        root=root,
        name=folder.name,
        part=part,
        part_folder=part_folder,
        fingerprint=fields.fingerprint(part),
        fields=fields,
        identity=identity,
    )


def read_space(folder: Path) -> SpaceFields:
    """The fields of a space's folder, whose name and config.json must agree. Raises StoreError."""
    path = folder / CONFIG_FILE
    content = read_small(path, _CONFIG_BYTES_MAX)
    if content is None:
        raise StoreError(f"{path}: expected a space, got none")
    try:
        fields = msgspec.json.decode(content, type=SpaceFields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(
            f"{path}: expected the fields of a space, got something else: {quoted(error)}"
        ) from None
    if fields.encode() != content or fields.space_name() != folder.name:
        raise StoreError(f"{path}: expected the fields of {folder.name}, got those of {fields.space_name()}")
    return fields


def _make(folder: Path, path: Path, content: bytes) -> bytes:
    _make_folder(folder)
    try:
        return write_once(path, content)
    except OSError as error:
        raise StoreError(f"{path}: expected to write it, got {error.strerror}") from error


def _make_folder(folder: Path) -> None:
    # Not the folders above: a store whose mount is missing must not grow on the disk beneath.
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: expected to make this folder, got {error.strerror}") from error


def _version() -> str:
    import importlib.metadata  # slow to import; only who makes a store needs it

    try:
        return importlib.metadata.version("kvatlas")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
