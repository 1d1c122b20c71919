"""The commands `kvatlas offload stat`, `verify`, `warm`, `pin` and `unpin`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from kvatlas.cluster.commands.options import AsJson
from kvatlas.cluster.commands.store_options import DEFAULT_THREADS, StorePath, Threads, bytes_of, store_at
from kvatlas.cluster.quantities import shown_bytes, shown_count
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import InputError

offload = typer.Typer(
    help="Look at a store of KV files, verify it, warm it, pin what must stay.", no_args_is_help=True
)

_BAD, _INTERRUPTED = 1, 130

Keys = Annotated[
    list[str] | None, typer.Option("--key", help="A key in hex, or the name of its file. Repeatable.")
]
KeysFile = Annotated[Path | None, typer.Option(help="Keys or names, a line each; -: standard input.")]
SpaceName = Annotated[str, typer.Argument(help="The name of the space's folder; `stat` shows them.")]


@offload.command()
def stat(path: StorePath, threads: Threads = DEFAULT_THREADS, as_json: AsJson = False) -> None:
    """Show what lies in a store: spaces, files, bytes, ages, faults, and who writes and evicts."""
    from kvatlas.cluster.commands.store_screen import survey_view
    from kvatlas.offload.inspecting.survey import survey

    with _clean(), Console(stderr=True).status(f"{path}: crawling") as shown:
        found = survey(
            store_at(path), threads=threads, seen=lambda n: shown.update(f"{path}: {shown_count(n)} files")
        )
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found)))
    else:
        Console().print(survey_view(found), highlight=False)


@offload.command()
def verify(
    path: StorePath,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the bad files: they are misses then.")
    ] = False,
    threads: Threads = DEFAULT_THREADS,
    as_json: AsJson = False,
) -> None:
    """Read every file of a store and name the bad ones. Ends with 1 where there are any, removed or not."""
    from kvatlas.offload.inspecting import verifying

    files = n_bytes = removed = 0
    bad: list[verifying.Checked] = []
    with _clean(), Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{path}", total=None)
        for one in verifying.verify(store_at(path), threads=threads):
            files += not one.is_space
            n_bytes += one.n_bytes
            progress.update(
                task, description=f"{shown_count(files)} files, {shown_bytes(n_bytes)}, {len(bad)} bad"
            )
            if not one.fault:
                continue
            bad.append(one)
            if not as_json:
                typer.echo(f"{one.path}: {one.fault}")
            if remove and not one.is_space:
                removed += verifying.remove_bad(one)
    if as_json:
        told = [{"path": one.path, "fault": one.fault} for one in bad]
        typer.echo(json.dumps({"files": files, "bytes": n_bytes, "removed": removed, "bad": told}))
    else:
        typer.echo(f"{files} files, {shown_bytes(n_bytes)}: {len(bad)} bad, {removed} removed", err=True)
    if bad:
        raise typer.Exit(_BAD)


@offload.command()
def warm(
    path: StorePath,
    budget: Annotated[
        str | None, typer.Option("--bytes", help="At most so much: 20GiB. Else half of the free memory.")
    ] = None,
    threads: Threads = DEFAULT_THREADS,
    as_json: AsJson = False,
) -> None:
    """Read the most recently used files into the page cache. Engines with direct I/O do not use it."""
    from kvatlas.offload.inspecting.warming import memory_budget
    from kvatlas.offload.inspecting.warming import warm as read_newest

    with _clean(), Console(stderr=True).status(f"{path}: crawling") as shown:
        wanted = bytes_of("--bytes", budget)
        done = read_newest(
            store_at(path),
            memory_budget() if wanted is None else wanted,
            threads=threads,
            seen=lambda n: shown.update(f"{path}: {shown_bytes(n)} read"),
        )
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(done)))
        return
    typer.echo(
        f"{done.files} files, {shown_bytes(done.bytes)} read; {shown_bytes(done.left_out_bytes)} left out"
    )
    if done.cached_files is None:
        typer.echo("whether they are cached now, this file system does not say")
    elif done.cached_files < done.files:
        typer.echo(f"only {done.cached_files} of them are cached: this file system, or memory, keeps no more")


@offload.command()
def pin(
    path: StorePath,
    space: SpaceName,
    key: Keys = None,
    keys_file: KeysFile = None,
    note: Annotated[str, typer.Option(help="Why; for who finds it.")] = "",
) -> None:
    """Keep keys of a space, or all of it, from being evicted, until they are unpinned."""
    from kvatlas.offload.capacity.control import ControlFolder
    from kvatlas.offload.capacity.pins import write_pin

    with _clean():
        keys = _keys(key, keys_file)
        write_pin(ControlFolder(store_at(path)), space, keys, note)
        typer.echo(f"{space}: {'all' if keys is None else len(keys)} pinned")


@offload.command()
def unpin(path: StorePath, space: SpaceName, key: Keys = None, keys_file: KeysFile = None) -> None:
    """Let keys of a space be evicted again; without keys, all that is pinned of it."""
    from kvatlas.offload.capacity.control import ControlFolder
    from kvatlas.offload.capacity.pins import remove_pins

    with _clean():
        gone = remove_pins(ControlFolder(store_at(path)), space, _keys(key, keys_file))
        typer.echo(f"{space}: {gone} unpinned")


@contextlib.contextmanager
def _clean() -> Iterator[None]:
    """Errors in a line; Ctrl-C in none."""
    try:
        with clear_errors():
            yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _keys(given: list[str] | None, file: Path | None) -> list[bytes] | None:
    """None: neither was given. Raises InputError."""
    if given is None and file is None:
        return None
    texts = list(given or ())
    if file is not None:
        content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        texts.extend(content.split())
    return [_key(text) for text in texts]


def _key(text: str) -> bytes:
    from kvatlas.offload._native import KEY_BYTES_MAX, chunk_key

    key = chunk_key(text.rpartition("/")[2])
    if key is None:
        with contextlib.suppress(ValueError):
            key = bytes.fromhex(text)
    if key is None or not 5 <= len(key) <= KEY_BYTES_MAX:
        raise InputError(f"--key: expected a key in hex, or a chunk file's name, got {text[:200]!r}")
    return key
