"""Sources of tokenizers that are files of this machine."""

from __future__ import annotations

from pathlib import Path

from kvatlas.index.errors import TokenizerError, UnsupportedModelError
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.loading.files import DEFINITION, missing_definition
from kvatlas.tokenize.loading.places import (
    cache_folder,
    is_file,
    looks_like_path,
    models_in_cache,
    models_in_folder,
    named_place,
    place_in_cache,
    place_in_folder,
)
from kvatlas.tokenize.local import LocalTokenizer


class NamedSource:
    """Models whose place the configuration names (`models`)."""

    name = "models"

    def __init__(self, config: TokenizeConfig) -> None:
        self._config = config

    def find(self, model: str) -> LocalTokenizer | None:
        """Raises TokenizerError where the place is empty or no good."""
        target = self._config.models.get(model)
        place = None if target is None else named_place(target)
        if place is None:
            if target is not None and looks_like_path(target):
                raise TokenizerError(f"{target}: expected a folder or a {DEFINITION}, found none")
            return None
        return LocalTokenizer(model, place, self._config)

    def models(self) -> tuple[str, ...]:
        return tuple(self._config.models)


class FolderSource:
    """Models in folders that are searched (`folders`)."""

    name = "folders"

    def __init__(self, config: TokenizeConfig) -> None:
        self._config = config
        self._folders = [Path(folder).expanduser() for folder in config.folders]

    def find(self, model: str) -> LocalTokenizer | None:
        """Looked up by its path, without a search. Raises TokenizerError where the files are no good."""
        refusal: UnsupportedModelError | None = None
        for folder in self._folders:
            place = place_in_folder(folder, model)
            if place is None:
                continue
            if is_file(place.folder / place.definition):
                return LocalTokenizer(model, place, self._config)
            # Without a definition it is a tokenizer of another kind, or a mere folder of folders.
            error = missing_definition(place)
            refusal = error if isinstance(error, UnsupportedModelError) else refusal
        if refusal is not None:
            raise refusal
        return None

    def models(self) -> tuple[str, ...]:
        """Searches the folders: a call for people, not for requests."""
        return tuple(dict.fromkeys(name for folder in self._folders for name in models_in_folder(folder)))


class CacheSource:
    """Models that the hub's cache on this machine holds already (`cache`)."""

    name = "cache"

    def __init__(self, config: TokenizeConfig) -> None:
        self._config = config

    def find(self, model: str) -> LocalTokenizer | None:
        """Raises TokenizerError where the files are no good."""
        place = place_in_cache(self._folder(), model, self._config.hub.revision)
        if place is None or not is_file(place.folder / DEFINITION):
            return None
        return LocalTokenizer(model, place, self._config)

    def models(self) -> tuple[str, ...]:
        return tuple(models_in_cache(self._folder()))

    def _folder(self) -> Path:
        return cache_folder(self._config.hub.cache_folder)
