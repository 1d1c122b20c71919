"""The command `kvatlas proxy`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from kvatlas.cluster.commands.ending import Ending
from kvatlas.cluster.commands.options import DEFAULT_ADDRESS, Address, connect_to
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.loading import load_config
from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import ConfigError

if TYPE_CHECKING:
    from kvatlas.ingest.discovery.entries import PodEntry

_EVENTS, _REPLAY = 1, 2


def proxy(
    pod: Annotated[
        list[str] | None,
        typer.Option(
            help="URL, or URL,EVENTS[,REPLAY]: http://HOST:PORT of a server, and tcp://HOST:PORT of its "
            "events and replays; without, it is asked for them (vLLM 0.32). Repeatable."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="That these pods serve.")] = None,
    folder: Annotated[
        list[Path] | None, typer.Option(help="Searched for the model's tokenizer. Repeatable.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file, see docs/configuration.md.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Choose by this cluster on Ray, and follow no pods here."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    host: Annotated[str | None, typer.Option(help="To listen at, instead of the file's proxy.host.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any that is free.")] = None,
) -> None:
    """One URL for a fleet: OpenAI's API, each request to the server that is best for it. Ctrl-C ends it."""
    with clear_errors():
        read = (
            load_config(config, tokenize__folders=[str(one) for one in folder])
            if folder
            else load_config(config)
        )
        if host is not None:
            read = msgspec.structs.replace(read, proxy=msgspec.structs.replace(read.proxy, host=host))
        if name is not None:
            if pod or folder or model:
                raise ConfigError("proxy: expected --name, or pods of its own, got both")
            running = _over_cluster(name, address, read.proxy, port)
        else:
            running = _embedded(_with_pods(read, pod or [], model), port)
        with Ending() as ending, running as url:
            typer.echo(f"listens at {url}/v1", err=True)
            ending.wait()


@contextlib.contextmanager
def _embedded(config: ClusterConfig, port: int | None) -> Iterator[str]:
    from kvatlas.cluster.proxy.embedded import EmbeddedProxy

    with EmbeddedProxy(config, port=port) as running:
        yield running.url


@contextlib.contextmanager
def _over_cluster(name: str, address: str, config: ProxyConfig, port: int | None) -> Iterator[str]:
    with connect_to(name, address) as client:
        from kvatlas.cluster.proxy.running import RunningProxy

        _ = client.chooser  # connects: the event loop never has to
        running = RunningProxy(config, client, client, port=port)
        try:
            yield running.url
        finally:
            running.stop()


def _with_pods(config: ClusterConfig, given: list[str], model: str | None) -> ClusterConfig:
    """The configuration, with the pods of the command line. Raises ConfigError where there are none."""
    if not given:
        if not config.discovery.watches:
            raise ConfigError("proxy: expected --pod, --name, or a configuration with discovery.watches")
        return config
    if model is None:
        raise ConfigError("proxy: expected --model with --pod: a pod that is idle says nothing of its own")
    from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig

    watch = StaticWatchConfig(name="command-line", pods=tuple(_entry(one, model) for one in given))
    discovery = DiscoveryConfig(watches=(watch, *config.discovery.watches), limits=config.discovery.limits)
    return msgspec.structs.replace(config, discovery=discovery)


def _entry(given: str, model: str) -> PodEntry:
    """A pod is named by where it serves."""
    from kvatlas.index.choosing.serving import Serving
    from kvatlas.ingest.discovery.entries import PodEntry

    parts = given.split(",")
    url = parts[0].rstrip("/")
    pod = url.rpartition("://")[2]
    if len(parts) == 1:
        return PodEntry(pod=pod, url=url, model=model)
    if len(parts) > _REPLAY + 1:
        raise ConfigError(f"--pod: expected URL,EVENTS,REPLAY, got {given!r}")
    replay = parts[_REPLAY] if len(parts) > _REPLAY else None
    serving = Serving(url=url)
    return PodEntry(pod=pod, endpoint=parts[_EVENTS], replay_endpoint=replay, model=model, serving=serving)
