"""The file of a Unix socket: permissions, the dead and the living."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.service.serving.unix_socket import UnixSocket


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return listener


def never() -> None:
    raise AssertionError("the path is not free")


def test_socket_has_its_permissions_from_its_first_moment(socket_folder: Path) -> None:
    path = socket_folder / "deep" / "a.sock"
    modes: list[int] = []
    before = os.umask(0)
    try:
        place = UnixSocket(str(path), 0o620)
        listeners: list[socket.socket] = []

        def bind() -> None:
            listeners.append(listen(path))
            modes.append(stat.S_IMODE(path.stat().st_mode))

        place.bind(bind)
        assert os.umask(0) == 0  # as it was
    finally:
        os.umask(before)
    assert modes == [0o620]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    listeners[0].close()
    place.release()
    assert not path.exists()
    place.release()


def test_dead_socket_is_replaced(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    listen(path).close()
    assert path.exists()
    place = UnixSocket(str(path), 0o600)
    listeners: list[socket.socket] = []
    place.bind(lambda: listeners.append(listen(path)))
    listeners[0].close()
    place.release()


def test_living_socket_is_left_alone(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    with listen(path):
        with pytest.raises(ConfigError, match="expected a free path, somebody listens there"):
            UnixSocket(str(path), 0o600).bind(never)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # still there


def test_two_that_start_at_once_do_not_take_each_others_socket(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    first, second = UnixSocket(str(path), 0o600), UnixSocket(str(path), 0o600)

    def bind() -> None:
        with pytest.raises(ConfigError, match="another service holds it"):
            second.bind(never)

    first.bind(bind)
    with pytest.raises(ConfigError, match="another service holds it"):
        second.bind(never)
    first.release()
    second.bind(lambda: None)
    second.release()


def test_other_files_are_left_alone(socket_folder: Path) -> None:
    path = socket_folder / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="expected a socket or nothing there"):
        UnixSocket(str(path), 0o600).bind(never)
    assert path.read_text() == "mine"
    link = socket_folder / "link.sock"
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="expected a socket or nothing there"):
        UnixSocket(str(link), 0o600).bind(never)
    assert link.is_symlink()


def test_folder_that_cannot_be_had_is_an_error_with_the_path(socket_folder: Path) -> None:
    (socket_folder / "file").write_text("")
    path = socket_folder / "file" / "a.sock"
    with pytest.raises(ConfigError, match=f"unix:{path}: expected to make a socket there"):
        UnixSocket(str(path), 0o600).bind(never)


def test_failed_bind_lets_go_of_the_path(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    with pytest.raises(AssertionError):
        UnixSocket(str(path), 0o600).bind(never)
    place = UnixSocket(str(path), 0o600)
    place.bind(lambda: None)
    place.release()
