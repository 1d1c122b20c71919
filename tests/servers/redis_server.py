"""A real redis-server or valkey-server on the loopback, as a test wants it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.ports import free_ports
from tests.servers.certificates import Certificates
from tests.servers.programs import Kind, find_program

if TYPE_CHECKING:
    import redis  # imported where it is used: without it there are reasons to skip, not errors

WAIT_S = 60.0
"""In which a server answers, or has gone. Long: machines that run tests are busy."""


_PORTS_TRIED = 5


class NoServerError(Exception):
    """There is no such program here; its words are the reason to skip."""


def wait_until(condition: Callable[[], Any], timeout_s: float = WAIT_S, what: str = "") -> None:
    """Looks every few milliseconds; raises AssertionError when the time is over."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until_s:
            raise AssertionError(f"{what or condition}: not so within {timeout_s} s")
        time.sleep(0.005)


class RedisServer:
    """One server process. It keeps its port from start to start, and nothing else: no persistence."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: Kind = "redis",
        is_unix: bool = False,
        user: str | None = None,
        password: str | None = None,
        certificates: Certificates | None = None,
        options: Mapping[str, str | int] | None = None,
    ) -> None:
        """`is_unix`: a socket in the folder and no port. `user`: an ACL user beside the default one, who is
        off then. `options`: of its configuration. Starts nothing yet."""
        program = find_program(kind)
        if isinstance(program, str):
            raise NoServerError(program)
        self.kind = kind
        self.version = program.version
        self.port = 0 if is_unix else free_ports(1)[0]
        self.socket = folder / "server.sock" if is_unix else None
        self.password = password
        self.user = user
        self._program = program
        self._certificates = certificates
        self._folder = folder
        self.options = dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._has_started = False

    # --- its life -------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def start(self) -> RedisServer:
        """Returns when it answers PING. What it held before is gone."""
        for _ in range(_PORTS_TRIED):
            try:
                self._start()
            except AssertionError as error:
                # Somebody else has taken the port since it was free; later ones keep the first one's.
                if self._has_started or "Failed listening on port" not in str(error):
                    raise
                self._take_ports()
            else:
                self._has_started = True
                return self
        raise AssertionError(f"no port of {_PORTS_TRIED} was free\n{self.log()}")

    def _take_ports(self) -> None:
        if self.socket is None:
            self.port = free_ports(1)[0]
        if "cluster-port" in self.options:
            self.options["cluster-port"] = free_ports(1)[0]
        self._log.unlink()

    def _start(self) -> None:
        assert not self.is_running
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program.path, *self._arguments()],
                cwd=self._folder,
                env=self._program.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers, what=f"{self.kind} answers PING")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.log()}") from None

    def stop(self, *, timeout_s: float = WAIT_S) -> None:
        """By SIGTERM; by SIGKILL where that does not do. Nothing where it is not running."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """By SIGKILL: its connections break off."""
        self._end(signal.SIGKILL, WAIT_S)

    def pause(self) -> None:
        """By SIGSTOP: the kernel still takes connections and bytes, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Another process on the same port, empty."""
        self.kill()
        self.start()

    # --- for tests ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """As a configuration names it, with the password."""
        who = f"{quote(self.user or '', safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        if self.socket is not None:
            return f"{self.kind}+unix://{who}{self.socket}"
        return f"{self.kind}{'s' if self._certificates else ''}://{who}127.0.0.1:{self.port}"

    def client(self, **options: Any) -> redis.Redis:
        """A client for the test itself, to be closed by it."""
        import redis

        if self.socket is not None:
            options["unix_socket_path"] = str(self.socket)
        else:
            options.update(host="127.0.0.1", port=self.port)
        if self._certificates is not None:
            options.update(ssl=True, ssl_ca_certs=str(self._certificates.authority))
            options.update(ssl_certfile=str(self._certificates.certificate))
            options.update(ssl_keyfile=str(self._certificates.key))
        return redis.Redis(username=self.user, password=self.password, **options)

    def command(self, *arguments: Any) -> Any:
        """One command by a connection of its own, and its answer."""
        with self.client() as client:
            return client.execute_command(*arguments)

    def flush(self) -> None:
        """As a fresh one: no keys, no scripts, no other limit or clients than at the start."""
        if not self.is_running:
            self.start()
        self.resume()
        for command in (
            "FLUSHALL",
            "SCRIPT FLUSH",
            "CONFIG SET maxmemory 0",
            "CONFIG SET maxmemory-policy noeviction",
        ):
            self.command(*command.split())

    def log(self) -> str:
        """The end of what it has written."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    # --- inside ---------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _arguments(self) -> Sequence[str]:
        options: dict[str, str | int] = {
            "bind": "127.0.0.1",
            "port": 0 if self._certificates else self.port,
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "dir": str(self._folder),
        }
        if self.socket is not None:
            options["unixsocket"] = str(self.socket)
        if self._certificates is not None:
            options["tls-port"] = self.port
            options["tls-cert-file"] = str(self._certificates.certificate)
            options["tls-key-file"] = str(self._certificates.key)
            options["tls-ca-cert-file"] = str(self._certificates.authority)
            options["tls-auth-clients"] = "no"
        if self.password is not None and self.user is None:
            options["requirepass"] = self.password
        options.update(self.options)
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        if self.user is not None:
            words += [
                "--user",
                self.user,
                "on",
                f">{self.password}",
                "~*",
                "&*",
                "+@all",
                "--user",
                "default",
                "off",
            ]
        return words

    def _answers(self) -> bool:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        assert self._process is not None
        assert self._process.poll() is None, f"the server has ended with {self._process.returncode}"
        try:
            with self.client(socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
                # Where its port was taken, somebody else's server may answer before it has ended.
                return bool(client.info("server")["process_id"] == self.pid)
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)  # a paused one hears SIGTERM only then
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(WAIT_S)
        self._process = None
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)
