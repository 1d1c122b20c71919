"""Tokenizers from the Hugging Face hub, through its own library: only their files are fetched."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.config import HubConfig, TokenizeConfig
from kvatlas.tokenize.loading.files import (
    DEFINITION,
    SMALL_FILES,
    TEMPLATES_FOLDER,
    Place,
    no_definition,
    read_bytes,
)
from kvatlas.tokenize.loading.places import cache_folder, is_file, place_in_cache
from kvatlas.tokenize.loading.texts import is_inside
from kvatlas.tokenize.local import LocalTokenizer

PATTERNS = (DEFINITION, *SMALL_FILES, f"{TEMPLATES_FOLDER}/*.jinja")
FETCHES_MAX = 4
"""Models fetched at a time."""
_TOKEN_BYTES_MAX = 10_000


class HubSource:
    """Models of the hub, where that is allowed (`hub`). What was fetched once is used when it cannot be
    reached."""

    name = "hub"

    def __init__(self, config: TokenizeConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._fetches: dict[str, _Fetch] = {}

    def find(self, model: str) -> LocalTokenizer | None:
        """Takes as long as fetching takes. Raises TokenizerError that says why it is not to be had."""
        hub = self._config.hub
        if not hub.allowed:
            raise TokenizerError("downloads are not allowed (hub.allowed)")
        if not is_inside(model) or model.count("/") > 1:
            raise TokenizerError(f"expected NAME or ORGANISATION/NAME, got {model!r}")
        folder = self._fetch(model, hub)
        ref = place_in_cache(cache_folder(hub.cache_folder), model, hub.revision)
        place = Place(folder, DEFINITION, ref.watched if ref is not None else ())
        return LocalTokenizer(model, place, self._config, served_by=f"hub:{model}@{folder.name}")

    def models(self) -> tuple[str, ...]:
        return ()

    def _fetch(self, model: str, hub: HubConfig) -> Path:
        """In a thread of its own: the library waits for some answers without a limit."""
        with self._lock:
            running = {name: fetch for name, fetch in self._fetches.items() if not fetch.ended.is_set()}
            if model not in running:
                if len(running) >= FETCHES_MAX:
                    raise TokenizerError(f"{model}: {FETCHES_MAX} other models are being fetched just now")
                running[model] = _Fetch(model, hub)
            self._fetches = running
            fetch = running[model]
        if not fetch.ended.wait(hub.timeout_s):
            raise TokenizerError(
                f"{model}: not fetched within {hub.timeout_s:g} s (hub.timeout_s); it goes on"
            )
        if fetch.error is not None:
            raise type(fetch.error)(*fetch.error.args) from fetch.error
        assert fetch.folder is not None
        return fetch.folder


class _Fetch:
    """One model that is being fetched."""

    def __init__(self, model: str, hub: HubConfig) -> None:
        self.ended = threading.Event()
        self.folder: Path | None = None
        self.error: TokenizerError | None = None
        threading.Thread(target=self._run, args=(model, hub), name=f"fetch {model}", daemon=True).start()

    def _run(self, model: str, hub: HubConfig) -> None:
        try:
            self.folder = fetch_snapshot(model, hub)
        except TokenizerError as error:
            self.error = error
        except BaseException:
            self.error = TokenizerError(f"{model}: could not be fetched")
            raise
        finally:
            self.ended.set()


def fetch_snapshot(model: str, hub: HubConfig) -> Path:
    """The folder of a model's snapshot in the cache, made or found. Raises TokenizerError."""
    import huggingface_hub
    from huggingface_hub import errors

    arguments: dict[str, Any] = {"revision": hub.revision, "token": _token(hub)}
    what = f"{model} at {hub.revision}" if hub.revision else model
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                model,
                cache_dir=hub.cache_folder,
                allow_patterns=list(PATTERNS),
                tqdm_class=_silent_bar(),
                **arguments,
            )
        )
        if not is_file(folder / DEFINITION):
            names = huggingface_hub.HfApi().list_repo_files(model, **arguments)
            raise no_definition(model, DEFINITION, sorted(names))
    except errors.GatedRepoError as error:
        raise TokenizerError(f"{what}: its owner has to grant access first ({_first(error)})") from error
    except errors.RevisionNotFoundError as error:
        raise TokenizerError(f"{what}: no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise TokenizerError(
            f"{what}: no such model, or a private one and no token that may see it"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise TokenizerError(
            f"{what}: not in the cache, and the hub cannot be reached (offline?): {_first(error)}"
        ) from error
    except TokenizerError:
        raise
    except Exception as error:
        # Its HTTP library's errors, and whatever else it may say of a damaged cache or answer.
        raise TokenizerError(f"{what}: could not be fetched: {_first(error)}") from error
    return folder


def _token(hub: HubConfig) -> str | None:
    """None: the library finds one by itself, or goes without."""
    if hub.token_file is None:
        return None
    token = read_bytes(Path(hub.token_file).expanduser(), _TOKEN_BYTES_MAX).decode("utf-8", "replace").strip()
    if not token:
        raise TokenizerError(f"{hub.token_file}: expected an access token, found an empty file")
    return token


def _silent_bar() -> Any:
    """A progress bar that shows nothing: a service's standard error is for its log."""
    from huggingface_hub import utils

    shown: Any = utils.tqdm  # type: ignore[attr-defined]

    def silence(self: Any, *args: Any, **kwargs: Any) -> None:
        shown.__init__(self, *args, **{**kwargs, "disable": True})

    return type("Silent", (shown,), {"__init__": silence})


def _first(error: BaseException) -> str:
    """The first line of what it says: the library's errors are pages long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
