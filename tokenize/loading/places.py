"""Where on this machine a model's files lie: named places, folders of models, the cache of the hub."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.loading.files import DEFINITION, Place, read_bytes
from kvatlas.tokenize.loading.texts import is_inside

SCAN_DEPTH_MAX = 5
SCAN_FOLDERS_MAX = 10_000
_CACHED = "models--"
_REF_BYTES_MAX = 200


def named_place(target: str) -> Place | None:
    """The place that a configuration names: a folder, or a definition in one. None: nothing is there."""
    path = Path(target).expanduser()
    if is_folder(path):
        return Place(path)
    if is_file(path):
        return Place(path.parent, path.name)
    return None


def looks_like_path(target: str) -> bool:
    """Whether a configuration's word can only be meant for a place, not for a model's name."""
    return target.startswith(("/", "./", "../", "~")) or target.endswith(".json")


def place_in_folder(folder: Path, model: str) -> Place | None:
    """Where `model` lies below `folder`: as a plain tree, or in a cache of the hub. None: nowhere."""
    if not is_inside(model):
        return None
    if model == folder.name and is_file(folder / DEFINITION):
        return Place(folder)
    plain = folder / model
    if is_folder(plain) and not model.startswith(_CACHED):
        return Place(plain)
    return place_in_cache(folder, model) or place_in_cache(folder / "hub", model)


def place_in_cache(cache: Path, model: str, revision: str | None = None) -> Place | None:
    """The snapshot of `model` that a cache of the hub holds. None: none, or none with a tokenizer.

    A cache holds `models--ORG--NAME/snapshots/COMMIT/` and, by branch, the commit in `refs/`.
    """
    if not is_inside(model) or model.count("/") > 1 or "--" in model:
        return None
    home = cache / (_CACHED + model.replace("/", "--"))
    ref = home / "refs" / (revision or "main")
    snapshots = home / "snapshots"
    commit = _commit(ref) or revision
    if commit is None:
        # A cache that was copied without its refs: clear where there is one snapshot.
        names = [path.name for path in _folders(snapshots)]
        commit = names[0] if len(names) == 1 else None
    if not commit or not is_inside(commit) or not is_folder(snapshots / commit):
        return None
    return Place(snapshots / commit, DEFINITION, (ref,))


def cache_folder(configured: str | None) -> Path:
    """The cache of the hub on this machine, as the hub's library finds it."""
    if configured is not None:
        return Path(configured).expanduser()
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(os.path.expandvars(named)).expanduser()
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(general, "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def models_in_folder(folder: Path) -> list[str]:
    """Names of the models below a folder, sorted; looks at no more than a bounded part of it."""
    found = {*models_in_cache(folder), *models_in_cache(folder / "hub")}
    queue = deque([(folder, 0)])
    for _ in range(SCAN_FOLDERS_MAX):
        if not queue:
            break
        here, depth = queue.popleft()
        if is_file(here / DEFINITION):
            found.add(folder.name if here == folder else here.relative_to(folder).as_posix())
        elif depth < SCAN_DEPTH_MAX:
            queue += [
                (path, depth + 1) for path in _folders(here) if not path.name.startswith((_CACHED, "."))
            ]
    return sorted(found)


def models_in_cache(cache: Path) -> list[str]:
    """Names of the models with a tokenizer in a cache of the hub."""
    cached = (path.name for path in _folders(cache) if path.name.startswith(_CACHED))
    names = (name[len(_CACHED) :].replace("--", "/") for name in cached)
    places = ((name, place_in_cache(cache, name)) for name in names)
    return [name for name, place in places if place is not None and is_file(place.folder / DEFINITION)]


def is_folder(path: Path) -> bool:
    """As `Path.is_dir`; False as well where it may not be looked at, and for impossible names."""
    return os.path.isdir(path)


def is_file(path: Path) -> bool:
    """As `Path.is_file`; False as well where it may not be looked at, and for impossible names."""
    return os.path.isfile(path)


def _folders(path: Path) -> Iterator[Path]:
    try:
        yield from sorted(Path(entry.path) for entry in os.scandir(path) if entry.is_dir())
    except OSError:
        return


def _commit(ref: Path) -> str | None:
    try:
        return read_bytes(ref, _REF_BYTES_MAX).decode("ascii").strip() or None
    except (TokenizerError, UnicodeDecodeError):
        return None
