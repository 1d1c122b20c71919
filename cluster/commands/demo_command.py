"""The command `kvatlas demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from kvatlas.cluster.demo.demo import default_demo, quick_demo, run_demo, save_chart, summary_of
from kvatlas.cluster.demo.demo_run import DemoConfig
from kvatlas.cluster.following.watch import Watch, WatchConfig, WatchSummary
from kvatlas.cluster.following.watch_screen import WatchScreen
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import ConfigError


def demo(
    pods: Annotated[int, typer.Option(min=1, max=64, help="Simulated model servers.")] = 8,
    turns: Annotated[int, typer.Option(min=1, max=100_000, help="Chat turns, routed once each way.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Of the chats.")] = 1,
    shards: Annotated[
        int, typer.Option(min=1, max=64, help="Shards of the index, each an actor of Ray.")
    ] = 4,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Without Ray: the whole atlas in this process.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds: fewer turns, small caches.")] = False,
    chart: Annotated[Path, typer.Option(help="Where the picture of the result goes (SVG).")] = Path(
        "kvatlas-demo.svg"
    ),
    pod: Annotated[
        list[str] | None,
        typer.Option(help="Follow this real server instead: tcp://HOST:PORT of its KV events. Repeatable."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Follow real servers that dial here, for example tcp://*:5557.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --pod: the model of servers whose topic names none.")
    ] = None,
    pod_id: Annotated[
        list[str] | None,
        typer.Option(help="With --pod: the pod's name where its topic has none, in the order of --pod."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="With --pod: how long; without, until Ctrl-C.")
    ] = None,
    score_tokens: Annotated[
        Path | None, typer.Option(help="With --pod: a file with a JSON list of token ids to score.")
    ] = None,
    score_prompt_ids: Annotated[
        str | None, typer.Option(help="With --pod: token ids to score, such as 1,2,3.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one line of JSON; the rest goes to stderr.")
    ] = False,
) -> None:
    """Route chats over a simulated fleet by score and round robin, or follow real model servers."""
    console = Console(stderr=as_json)
    with clear_errors():
        if pod or listen is not None:
            watched = WatchConfig(
                endpoints=tuple(pod or ()),
                listen=listen,
                model=model,
                pod_ids=tuple(pod_id or ()),
                seconds=seconds,
                prompt=_prompt(score_tokens, score_prompt_ids),
            )
            summary = msgspec.to_builtins(_follow(watched, console))
        else:
            if model is not None or pod_id or seconds is not None or score_tokens or score_prompt_ids:
                raise ConfigError("--model, --pod-id, --seconds and --score-*: expected --pod with them")
            config = quick_demo(pods, seed) if quick else default_demo(pods, turns, seed)
            summary = _simulate(config, None if embedded else shards, chart, console)
    if as_json:
        typer.echo(json.dumps(summary))


def _simulate(
    config: DemoConfig, shards: int | None, chart: Path, console: Console
) -> dict[str, dict[str, float]]:
    if not chart.parent.is_dir():  # better said now than after the run
        raise ConfigError(f"--chart: expected a file in an existing folder, got {str(chart)!r}")
    by_score, round_robin = run_demo(config, console, shards)
    save_chart(chart, config, by_score, round_robin)
    console.print(f"chart saved as {chart}", highlight=False, soft_wrap=True)
    return summary_of(by_score, round_robin)


def _follow(config: WatchConfig, console: Console) -> WatchSummary:
    with Watch(config) as watch, WatchScreen(console) as screen:
        return watch.follow(screen.show)


def _prompt(file: Path | None, ids: str | None) -> tuple[int, ...]:
    if file is not None and ids is not None:
        raise ConfigError("--score-tokens and --score-prompt-ids: expected one of them")
    if file is not None:
        text = file.read_bytes()
    elif ids is not None:
        text = f"[{ids}]".encode()
    else:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[int, ...])
    except msgspec.DecodeError as error:
        raise ConfigError(f"token ids to score: expected a list of integers ({error})") from error
