"""The command `kvatlas evict`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvatlas.cluster.commands.ending import Ending
from kvatlas.cluster.commands.log_lines import log_to_stderr
from kvatlas.cluster.commands.options import AsJson
from kvatlas.cluster.commands.store_options import DEFAULT_THREADS, Threads, bytes_of, store_at
from kvatlas.cluster.quantities import shown_bytes, shown_count, shown_duration
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import ConfigError

if TYPE_CHECKING:
    from kvatlas.offload.evicting.settings import EvictSettings, StoreToEvict

_STUCK = 1
_SHOWN_MAX = 20
_LIMITS = {
    "capacity": "--capacity",
    "free_min": "--free-min",
    "high": "--high",
    "low": "--low",
    "lease_s": "--lease",
    "crawl_s": "--crawl",
    "threads": "--threads",
}


def evict(
    context: typer.Context,
    root: Annotated[
        list[Path] | None, typer.Argument(help="Folders of stores; all get the limits given here.")
    ] = None,
    capacity: Annotated[
        str | None, typer.Option(help="What a store may hold: 500GiB. Without, only the free space counts.")
    ] = None,
    free_min: Annotated[
        str | None, typer.Option(help="What its file system must have left, whoever fills it: 50GiB.")
    ] = None,
    high: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of it at which eviction begins.")
    ] = 0.95,
    low: Annotated[float, typer.Option(min=0, max=1, help="Share at which it ends.")] = 0.85,
    lease_s: Annotated[
        float, typer.Option("--lease", min=0, help="Seconds: what was used since is never deleted.")
    ] = 60.0,
    crawl_s: Annotated[
        float, typer.Option("--crawl", min=0, help="Seconds between counts of all files.")
    ] = 3600.0,
    threads: Threads = DEFAULT_THREADS,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file with stores, see docs/offload.md.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go; delete nothing.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when each store is within its limits.")] = False,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT of /healthz and /metrics, by HTTP. Port 0: any.")
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="A line of JSON for each event, on stderr.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hold shared stores of KV files to their limits: what was not used for longest goes. Ctrl-C ends it."""
    with clear_errors():
        limits = {"high_share": high, "low_share": low, "lease_s": lease_s, "crawl_s": crawl_s}
        limits |= {"touch_s": min(lease_s / 2, 20.0)}
        sizes = {
            "capacity_bytes": bytes_of("--capacity", capacity),
            "free_bytes_min": bytes_of("--free-min", free_min),
        }
        if config is not None:
            _refuse_limits(context)
        settings = _settings(root or [], config, {**limits, **sizes}, threads, listen)
        log_to_stderr("kvatlas.offload.evicting", as_json=log_json)
        if dry_run:
            _plan(settings, as_json)
        elif once:
            _evict_once(settings, as_json)
        else:
            _serve(settings)


def _refuse_limits(context: typer.Context) -> None:
    """Beside a file that has the limits of each store they would say nothing."""
    for name, option in _LIMITS.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ConfigError(f"evict: expected limits in --config, or as options, got {option} beside it")


def _settings(
    roots: list[Path], config: Path | None, limits: dict[str, Any], threads: int, listen: str | None
) -> EvictSettings:
    from kvatlas.offload.capacity.limits import CapacityLimits
    from kvatlas.offload.evicting.settings import EvictSettings, StoreToEvict

    host, port = _address(listen)
    if config is not None:
        if roots:
            raise ConfigError("evict: expected folders, or --config, got both")
        return _read(config, host, port)
    if not roots:
        raise ConfigError("evict: expected the folder of a store, or --config, got neither")
    given = {name: value for name, value in limits.items() if value is not None}
    stores = tuple(
        StoreToEvict(root=str(store_at(one)), limits=CapacityLimits(**given), threads=threads)
        for one in roots
    )
    return EvictSettings(stores=stores, port=port, host=host or "127.0.0.1")


def _read(config: Path, host: str | None, port: int | None) -> EvictSettings:
    import yaml

    from kvatlas.cluster.config.parsing import parse
    from kvatlas.offload.evicting.settings import EvictSettings

    try:
        value = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: expected YAML, {str(error)[:500]}".replace("\n", " ")) from error
    if isinstance(value, dict) and port is not None:
        value |= {"host": host or "127.0.0.1", "port": port}
    settings = parse(value, EvictSettings, os.environ)
    for one in settings.stores:
        store_at(Path(one.root))
    return settings


def _address(listen: str | None) -> tuple[str | None, int | None]:
    if listen is None:
        return None, None
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"--listen: expected HOST:PORT, got {listen!r}")
    return host.strip("[]") or None, int(port)


def _serve(settings: EvictSettings) -> None:
    from kvatlas.offload.evicting.metrics import MetricsServer
    from kvatlas.offload.evicting.service import EvictService

    service = EvictService(settings)
    server = None if settings.port is None else MetricsServer(service, settings.host, settings.port)
    for root, endpoints in service.endpoints.items():
        for model, (endpoint, replay) in endpoints.items():
            typer.echo(f"{root}: announces {model} at {endpoint}, replays at {replay or 'none'}", err=True)
    with Ending() as ending:
        service.start()
        if server is not None:
            server.start()
            typer.echo(f"listens at http://{settings.host}:{server.port}", err=True)
        ending.wait()
        if server is not None:
            server.stop()
        if not service.stop():
            typer.echo("kvatlas: a file system hangs; its lease is taken over when it is old", err=True)


def _evict_once(settings: EvictSettings, as_json: bool) -> None:
    """Ends with 1 where a store stays above its limits, or another evictor has it."""
    from kvatlas.offload.capacity.notices import RemovalNotices
    from kvatlas.offload.evicting.evictor import Evictor

    results, is_well = [], True
    for store in settings.stores:
        notices = RemovalNotices(Path(store.root))
        evictor = Evictor(Path(store.root), store.limits, notices.leave, threads=store.threads)
        try:
            is_ours = evictor.step()
            state = evictor.statistics()
        finally:
            evictor.close()
        is_well = is_well and is_ours and state.used_bytes <= state.size_bytes * store.limits.high_share
        results.append(
            {
                "root": store.root,
                "is_ours": is_ours,
                "used_bytes": state.used_bytes,
                "size_bytes": state.size_bytes,
                "evicted_bytes": state.evicted_bytes,
                "counts": state.counts,
            }
        )
        if not as_json:
            typer.echo(_line(store, is_ours, state.evicted_bytes, state.used_bytes, state.size_bytes))
    if as_json:
        typer.echo(json.dumps(results))
    if not is_well:
        raise typer.Exit(_STUCK)


def _line(store: StoreToEvict, is_ours: bool, evicted_bytes: int, used_bytes: int, size_bytes: int) -> str:
    if not is_ours:
        return f"{store.root}: another process evicts"
    used = f"{shown_bytes(used_bytes)} of {shown_bytes(size_bytes)}"
    return f"{store.root}: {shown_bytes(evicted_bytes)} evicted, {used}"


def _plan(settings: EvictSettings, as_json: bool) -> None:
    from kvatlas.offload._native import chunk_name
    from kvatlas.offload.evicting.planning import plan_eviction

    plans = []
    for store in settings.stores:
        plan = plan_eviction(
            Path(store.root), store.limits, threads=store.threads, candidates_max=store.candidates_max
        )
        names = [f"{one.part.space}/{one.part.part}/{chunk_name(one.key)}" for one in plan.would_delete]
        if as_json:
            plans.append(
                {
                    "root": store.root,
                    "used_bytes": plan.used_bytes,
                    "size_bytes": plan.size_bytes,
                    "files": plan.files,
                    "would_free_bytes": plan.would_free_bytes,
                    "pinned": plan.pinned,
                    "missing_bytes": plan.missing_bytes,
                    "litter_bytes": plan.litter_bytes,
                    "would_delete": names,
                }
            )
            continue
        typer.echo(
            f"{store.root}: {shown_bytes(plan.used_bytes)} in {shown_count(plan.files)} files, of "
            f"{shown_bytes(plan.size_bytes)}; {len(names)} would go, {shown_bytes(plan.would_free_bytes)} "
            f"({shown_duration(plan.took_s)})"
        )
        for name in names[:_SHOWN_MAX]:
            typer.echo(f"  {name}")
        if len(names) > _SHOWN_MAX:
            typer.echo(f"  and {len(names) - _SHOWN_MAX} more: --json shows all")
        if plan.missing_bytes:
            typer.echo(f"  {shown_bytes(plan.missing_bytes)} too much would stay: in use, pinned or litter")
        if plan.is_by_host_clock:
            typer.echo("  ages are by this host's clock: the store cannot be written")
    if as_json:
        typer.echo(json.dumps(plans))
