"""Model servers that are forks of one Python which has imported vLLM: a start takes seconds.

One thread computes in each of them, so that what they compute is equal to the last digit; with a connector,
vLLM would take another number of threads than without, and sum in another order.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

from tests.e2e.vllm_server import VllmServer, _offline_environment

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_SCRIPT = Path(__file__).with_name("warm_process.py")


class WarmVllm:
    """The Python that is forked; thread-compatible. `small_disk`: a file system of one megabyte that only its
    servers see, None where nothing can be mounted.
    """

    def __init__(self, python: str, folder: Path) -> None:
        disk = folder / "small_disk"
        disk.mkdir()
        mounting = _mounting(disk)
        self.python, self.small_disk = python, disk if mounting else None
        log_path = folder / "warm.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*mounting, python, str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**_offline_environment(), **_ONE_THREAD},
            )
        while (line := self._answer()) != "ready\n":
            assert line, f"vLLM cannot be imported\n{log_path.read_text()}"

    def fork(self, arguments: list[str], environment: dict[str, str], folder: Path, log: Path) -> Forked:
        """Begins a server, with what follows `vllm.entrypoints.openai.api_server` on its command line."""
        assert self._process.stdin is not None
        asked = {
            "arguments": arguments,
            "environment": {**_offline_environment(), **_ONE_THREAD, **environment},
            "folder": str(folder),
            "log": str(log),
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._answer()))

    def close(self) -> None:
        """Ends it. Servers must have been stopped before."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Forked:
    """A process that is no child of this one, with what VllmServer needs of a Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._file = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._file = -1

    def poll(self) -> int | None:
        """None while it runs; its exit status is not known here."""
        return 0 if self._file < 0 or select.select([self._file], [], [], 0)[0] else None

    def wait(self, seconds: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self._file >= 0:
            if not select.select([self._file], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), seconds)
            os.close(self._file)
            self._file = -1
        return 0


class WarmServer(VllmServer):
    """A VllmServer whose process is a fork of `warm`."""

    def __init__(self, warm: WarmVllm, model: Path, folder: Path, **more: Any) -> None:
        super().__init__(warm.python, model, folder, **more)
        self._warm = warm

    def start(self) -> None:
        assert self._process is None, "started already"
        arguments = self._command()
        arguments = arguments[arguments.index("--model") :]
        forked = self._warm.fork(arguments, self.environment, self.folder, self.log_path)
        self._process = cast("subprocess.Popen[bytes]", forked)


def _mounting(folder: Path) -> list[str]:
    """What to put before a command so that it sees a disk of its own; nothing where that is refused."""
    script = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    unshare = shutil.which("unshare")
    for flags in ("-m", "-rm"):
        command = [unshare or "unshare", flags, "sh", "-c", script, str(folder)]
        if unshare and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return []
