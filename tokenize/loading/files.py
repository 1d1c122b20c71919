"""The files of a model's tokenizer: reading them safely, and seeing that they have changed."""

from __future__ import annotations

import fnmatch
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kvatlas.index.errors import TokenizerError, UnsupportedModelError

DEFINITION = "tokenizer.json"
TEMPLATES_FOLDER = "additional_chat_templates"
DEFINITION_BYTES_MAX = 256 << 20
FILE_BYTES_MAX = 16 << 20
"""Of each file beside the definition."""
NAMED_TEMPLATES_MAX = 64
NAMES_MAX = 1000

SMALL_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Beside the definition, all of them optional."""

OTHER_KINDS = (
    ("*.tiktoken", "tiktoken"),
    ("tiktoken.model", "tiktoken"),
    ("tekken.json", "mistral-common"),
    ("tokenizer.model*", "SentencePiece"),
    ("*.spm", "SentencePiece"),
    ("vocab.json", "vocabulary-and-merges"),
    ("vocab.txt", "WordPiece vocabulary"),
)
"""Files that are a tokenizer of another kind, by pattern; the first that matches is named."""

Stamp = tuple[tuple[str, tuple[int, int, int, int] | None], ...]
"""Of each file that was or would have been read: its path, and device, inode, size and time of change."""


class Place(NamedTuple):
    """Where a tokenizer's files lie."""

    folder: Path
    definition: str = DEFINITION
    """Name of the definition in the folder."""
    watched: tuple[Path, ...] = ()
    """Other files that decide which folder it is, such as the hub cache's `refs/main`."""

    def __str__(self) -> str:
        """As `served_by` shows it."""
        return str(self.folder if self.definition == DEFINITION else self.folder / self.definition)


class TokenizerFiles(NamedTuple):
    """What a tokenizer is made of."""

    place: Place
    stamp: Stamp
    definition: str
    """The text of `tokenizer.json`."""
    tokenizer_config: Mapping[str, Any]
    special_tokens_map: Mapping[str, Any] | None
    added_tokens: Mapping[str, Any] | None
    model_config: Mapping[str, Any]
    """`config.json` of the model; empty where there is none."""
    template: str | None
    """`chat_template.jinja`."""
    named_templates: Mapping[str, str]
    """`additional_chat_templates/*.jinja`, by name."""
    processor_config: Mapping[str, Any] | None
    """`chat_template.json`."""
    names: tuple[str, ...]
    """What else lies in the folder."""


def stamp_of(place: Place) -> Stamp:
    """How the files are at this moment. Cost: some ten stat calls, 0.1 ms."""
    paths = [place.folder / name for name in (place.definition, *SMALL_FILES)]
    paths += [place.folder / TEMPLATES_FOLDER, *_named_templates(place.folder), *place.watched]
    return tuple((str(path), _state(path)) for path in paths)


def read_files(place: Place) -> TokenizerFiles:
    """Reads all that `place` holds.

    Raises TokenizerError with the path of what cannot be read or is not what its name says, and
    UnsupportedModelError where only files of another kind of tokenizer lie there.
    """
    # Before reading: what changes meanwhile is then seen at the next look.
    stamp = stamp_of(place)
    folder = place.folder
    if _state(folder / place.definition) is None:
        raise missing_definition(place)
    return TokenizerFiles(
        place=place,
        stamp=stamp,
        definition=_decode(folder / place.definition, DEFINITION_BYTES_MAX),
        tokenizer_config=_json(folder / "tokenizer_config.json") or {},
        special_tokens_map=_json(folder / "special_tokens_map.json"),
        added_tokens=_json(folder / "added_tokens.json"),
        model_config=_json(folder / "config.json") or {},
        template=_text(folder / "chat_template.jinja"),
        named_templates={path.stem: _decode(path, FILE_BYTES_MAX) for path in _named_templates(folder)},
        processor_config=_json(folder / "chat_template.json"),
        names=tuple(_names(folder)[:NAMES_MAX]),
    )


def _state(path: Path) -> tuple[int, int, int, int] | None:
    """Of what the path leads to, through links. None: nothing."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _named_templates(folder: Path) -> list[Path]:
    names = [name for name in _names(folder / TEMPLATES_FOLDER) if name.endswith(".jinja")]
    return [folder / TEMPLATES_FOLDER / name for name in names[:NAMED_TEMPLATES_MAX]]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def missing_definition(place: Place) -> TokenizerError:
    """The error of a place that has none; UnsupportedModelError where it has a tokenizer of another kind."""
    folder = place.folder
    if not os.path.isdir(folder):
        return TokenizerError(f"{folder}: expected a folder with {place.definition}, found none")
    return no_definition(str(folder), place.definition, _names(folder))


def no_definition(where: str, definition: str, names: Sequence[str]) -> TokenizerError:
    """The error of a model without a definition, whose files have these names."""
    for pattern, kind in OTHER_KINDS:
        for name in names:
            if fnmatch.fnmatchcase(name, pattern):
                return UnsupportedModelError(
                    f"{where}/{name}: expected {definition} beside it, found a tokenizer of the {kind} kind "
                    f"alone, which is not supported here; convert it (transformers' save_pretrained writes "
                    f"{DEFINITION}) or have its pod asked (`pods`)"
                )
    return TokenizerError(f"{where}: expected {definition} in it, found none")


def _json(path: Path) -> dict[str, Any] | None:
    text = _text(path)
    return None if text is None else parse_object(path, text)


def parse_object(path: Path, text: str) -> dict[str, Any]:
    """The JSON object in the text of a file. Raises TokenizerError with its path."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: expected JSON, got {str(error) or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def _text(path: Path) -> str | None:
    return None if _state(path) is None else _decode(path, FILE_BYTES_MAX)


def _decode(path: Path, bytes_max: int) -> str:
    try:
        return read_bytes(path, bytes_max).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: expected UTF-8, got {error.reason} at byte {error.start}") from None


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """A regular file's content. Raises TokenizerError for anything else, and beyond `bytes_max`."""
    try:
        # Without waiting: a FIFO in the place of a file would hold us for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise TokenizerError(f"{path}: expected a file, found something else")
            content = file.read(bytes_max + 1)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: expected a file that can be read, got {error}") from error
    if len(content) > bytes_max:
        raise TokenizerError(f"{path}: expected at most {bytes_max} bytes, found more")
    return content
