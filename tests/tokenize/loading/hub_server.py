"""A server on this machine with as much of the hub's API as its library asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSALS = {
    "RepoNotFound": 404,
    "GatedRepo": 403,
    "RevisionNotFound": 404,
    "EntryNotFound": 404,
}


class HubServer:
    """Models by name, each with its files by name. `TOKEN` opens the private ones."""

    TOKEN = "hf_secret"

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.downloaded: list[str] = []
        """MODEL/FILE of each content that was sent."""
        self.url = ""

    def answer(self, path: str, method: str, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "api" and rest.startswith("models/"):
            return self._about(rest.removeprefix("models/"), token)
        model, found, rest = path.lstrip("/").partition("/resolve/")
        if refusal := self._refusal(model, token) if found else "RepoNotFound":
            return self._refused(refusal)
        content = self.models[model].get(rest.partition("/")[2])
        if content is None:
            return self._refused("EntryNotFound")
        if method == "GET":
            self.downloaded.append(f"{model}/{rest.partition('/')[2]}")
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.commit(model)}
        return 200, content, headers

    def commit(self, model: str) -> str:
        """Changes with the model's files."""
        parts = (name.encode() + content for name, content in sorted(self.models[model].items()))
        return hashlib.sha1(b"".join(parts)).hexdigest()

    def _about(self, rest: str, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        for part in ("/revision/", "/tree/"):
            model, found, revision = rest.partition(part)
            if not found:
                continue
            if refusal := self._refusal(model, token):
                return self._refused(refusal)
            if part == "/revision/" and revision not in ("main", self.commit(model)):
                return self._refused("RevisionNotFound")
            files = self.models[model]
            answer: Any = {
                "id": model,
                "sha": self.commit(model),
                "siblings": [{"rfilename": name} for name in files],
            }
            if part == "/tree/":
                answer = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in files.items()
                ]
            return 200, json.dumps(answer).encode(), {}
        return self._refused("RepoNotFound")

    def _refusal(self, model: str, token: str | None) -> str:
        if model not in self.models or (model in self.private and token != f"Bearer {self.TOKEN}"):
            return "RepoNotFound"
        return "GatedRepo" if model in self.gated else ""

    def _refused(self, code: str) -> tuple[int, bytes, dict[str, str]]:
        return REFUSALS[code], b"{}", {"X-Error-Code": code}


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """Runs while the context lasts."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = hub.answer(
                self.path.partition("?")[0], self.command, self.headers.get("authorization")
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 as the library looks for it

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
