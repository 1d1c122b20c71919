"""The commands `kvatlas record` and `kvatlas replay`."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from kvatlas.cluster.following.watch import UNNAMED_MODEL
from kvatlas.cluster.recordings.record_screen import (
    ProgressLine,
    atlas_view,
    played_line,
    recorded_line,
    summary_view,
)
from kvatlas.cluster.user_errors import clear_errors
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.recording.order import Selection
from kvatlas.ingest.recording.player import AtlasPlayer
from kvatlas.ingest.recording.player_sockets import SocketPlayer, SocketPlayerConfig
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.recorder import Recorder, RecorderConfig
from kvatlas.ingest.recording.summary import summary_of

_LOOK_S = 0.25
_FULL_SPEED = "full"
_FOREVER_S = float("inf")


def record(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    pod: Annotated[
        list[str] | None, typer.Option(help="tcp://HOST:PORT of a server's KV events. Repeatable.")
    ] = None,
    replay: Annotated[
        list[str] | None,
        typer.Option(help="tcp://HOST:PORT of its replay socket, in the order of --pod: asked at the start."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Record servers that dial here, for example tcp://*:5557.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="How long; without, until Ctrl-C.")] = None,
    append: Annotated[bool, typer.Option("--append", help="Go on with a file that exists.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one line of JSON; the rest goes to stderr.")
    ] = False,
) -> None:
    """Write the raw messages of model servers to a file, as they come."""
    console = Console(stderr=as_json)
    with clear_errors():
        config = RecorderConfig(
            endpoints=tuple(pod or ()), listen=listen, replay_endpoints=tuple(replay or ())
        )
        recorder = Recorder(output, config, append=append)
        began_s = time.monotonic()
        with recorder, ProgressLine(console) as progress:
            _record(recorder, progress, began_s, seconds)
        seen = recorder.statistics()
        _say(console, f"{output}: {recorded_line(seen, time.monotonic() - began_s)}")
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(seen)))


def _record(recorder: Recorder, progress: ProgressLine, began_s: float, seconds: float | None) -> None:
    """Until the time is up, the user interrupts, or the file can no longer be written."""
    until_s = began_s + (_FOREVER_S if seconds is None else seconds)
    try:
        while (left_s := until_s - time.monotonic()) > 0:
            recorder.wait_until(lambda seen: seen.failure is not None, min(left_s, _LOOK_S))
            if recorder.statistics().failure is not None:  # leaving the recorder raises it
                return
            progress.show(lambda: recorded_line(recorder.statistics(), time.monotonic() - began_s))
    except KeyboardInterrupt:  # how a recording without a time ends
        pass


def replay(
    file: Annotated[Path, typer.Argument(help="A recording.")],
    speed: Annotated[
        str | None,
        typer.Option(help="Times the speed of the recording, or 'full'. By default 1, with --atlas full."),
    ] = None,
    bind: Annotated[
        list[str] | None,
        typer.Option(help="Where to publish: one with '*' as port for all servers, or one for each."),
    ] = None,
    replay_bind: Annotated[
        str, typer.Option(help="Where to answer replay requests, for each server.")
    ] = "tcp://127.0.0.1:*",
    subscribers: Annotated[
        int, typer.Option(min=0, help="Wait until each publisher has so many before playing.")
    ] = 1,
    stay: Annotated[
        bool, typer.Option("--stay", help="Answer replay requests after the end, until Ctrl-C.")
    ] = False,
    atlas: Annotated[
        bool, typer.Option("--atlas", help="Straight into an atlas instead; print what it holds then.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="With --atlas: the model of servers whose topic names none.")
    ] = UNNAMED_MODEL,
    from_s: Annotated[
        float, typer.Option("--from", min=0, help="Seconds from the recording's beginning.")
    ] = 0,
    to_s: Annotated[
        float | None, typer.Option("--to", min=0, help="Seconds from the recording's beginning.")
    ] = None,
    source: Annotated[
        list[int] | None, typer.Option(help="Only this source, by its number in --info. Repeatable.")
    ] = None,
    info: Annotated[bool, typer.Option("--info", help="Print what is in the file instead.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one line of JSON; the rest goes to stderr.")
    ] = False,
) -> None:
    """Play a recording into sockets, as the servers did, or straight into an atlas."""
    console = Console(stderr=as_json)
    with clear_errors():
        selection = Selection(
            from_s=from_s, to_s=_FOREVER_S if to_s is None else to_s, sources=tuple(source or ())
        )
        with RecordingReader(file) as reader:
            if unknown := set(selection.sources) - set(reader.sources):
                raise ConfigError(f"--source: expected one of {sorted(reader.sources)}, got {min(unknown)}")
            if info:
                result = _describe(reader, console)
            elif atlas:
                result = _into_atlas(reader, selection, _speed(speed, None), model, console)
            else:
                config = SocketPlayerConfig(
                    speed=_speed(speed, 1.0),
                    bind=tuple(bind or ("tcp://127.0.0.1:*",)),
                    replay_bind=replay_bind,
                )
                with SocketPlayer(reader, config, selection) as player:
                    result = _into_sockets(player, reader.seconds, subscribers, stay, console)
    if as_json:
        typer.echo(json.dumps(result))


def _speed(said: str | None, default: float | None) -> float | None:
    if said is None:
        return default
    if said == _FULL_SPEED:
        return None
    try:
        return float(said)
    except ValueError as error:
        raise ConfigError(f"--speed: expected a number or {_FULL_SPEED!r}, got {said!r}") from error


def _describe(reader: RecordingReader, console: Console) -> dict[str, Any]:
    summary = summary_of(reader)
    console.print(summary_view(summary), highlight=False, soft_wrap=True)
    described: dict[str, Any] = msgspec.to_builtins(summary)
    return described


def _into_atlas(
    reader: RecordingReader, selection: Selection, speed: float | None, model: str, console: Console
) -> dict[str, Any]:
    atlas = Atlas()
    player = AtlasPlayer(reader, atlas, speed=speed, selection=selection, unnamed_model=model)
    with ProgressLine(console) as progress, contextlib.suppress(KeyboardInterrupt):
        player.play(lambda: progress.show(lambda: played_line(player.statistics(), reader.seconds)))
    statistics = atlas.statistics()
    _say(console, played_line(player.statistics(), reader.seconds))
    console.print(atlas_view(statistics))
    return {
        "played": msgspec.to_builtins(player.statistics()),
        "workers": [msgspec.to_builtins(worker) for worker in statistics.workers],
        "skips": statistics.skips,
    }


def _into_sockets(
    player: SocketPlayer, seconds: float, subscribers: int, stay: bool, console: Console
) -> dict[str, Any]:
    for server in player.servers:
        answers = f", replay {server.replay_endpoint}" if server.replay_endpoint else ""
        _say(console, f"{server.recorded} as {server.endpoint}{answers}")
    # An interrupt is how a stay ends, and how to end early: what was done so far is shown.
    with ProgressLine(console) as progress, contextlib.suppress(KeyboardInterrupt):
        player.wait_for_subscribers(
            subscribers, _FOREVER_S, lambda: progress.show(lambda: "waiting for subscribers")
        )
        player.play(lambda: progress.show(lambda: played_line(player.statistics(), seconds)))
        if stay:
            player.answer(lambda: progress.show(lambda: "played; answering replay requests"))
    _say(console, played_line(player.statistics(), seconds))
    return {
        "played": msgspec.to_builtins(player.statistics()),
        "servers": [msgspec.to_builtins(server) for server in player.servers],
    }


def _say(console: Console, line: str) -> None:
    """As it is: no colours of its own, no line breaks."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)
