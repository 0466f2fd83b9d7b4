"""A hub of repositories on this machine: the part of the protocol that the client uses to list and fetch files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Hub:
    """Repositories as `{name: {revision: folder}}`; what was fetched is noted.

    Attributes:
        repositories: of each repository its revisions and their folders; a branch and its commit are two entries.
        fetched: files whose content was sent, as `repository/file`.
        broken: a file that cannot be fetched.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}
        self.fetched: list[str] = []
        self.broken = ""

    def publish(self, name: str, folder: Path, branch: str = "main") -> str:
        """Put a folder's present content on a branch; returns the commit."""
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        commit = hashlib.sha1("".join(f"{f}{(folder / f).read_bytes()!r}" for f in files).encode()).hexdigest()
        self.repositories.setdefault(name, {}).update({branch: folder, commit: folder})
        return commit

    def commit_of(self, name: str, revision: str) -> str:
        """The commit that a branch stands for."""
        revisions = self.repositories[name]
        same = [key for key, folder in revisions.items() if folder == revisions[revision] and len(key) == 40]
        return same[-1]


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve a hub on localhost; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            match = API.fullmatch(path) or FILE.fullmatch(path)
            revisions = hub.repositories.get(match["repo"]) if match else None
            if match is None or revisions is None:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            revision = match["revision"] or "main"
            if revision not in revisions:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            folder, commit = revisions[revision], hub.commit_of(match["repo"], revision)
            parts = match.groupdict()
            if "file" in parts:
                self.file(parts["repo"], folder / parts["file"], parts["file"], commit)
                return
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            names = [path.relative_to(folder).as_posix() for path in files]
            if parts["what"] == "tree":
                rows = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": self.tag(path)}
                    for name, path in zip(names, files, strict=True)
                ]
                self.answer(200, json.dumps(rows).encode())
            else:
                info = {"id": parts["repo"], "sha": commit, "siblings": [{"rfilename": name} for name in names]}
                self.answer(200, json.dumps(info).encode())

        def file(self, repo: str, path: Path, name: str, commit: str) -> None:
            if not path.is_file():
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            if name == hub.broken:
                self.answer(403, b"")
                return
            if self.command == "GET":
                hub.fetched.append(f"{repo}/{name}")
            self.answer(200, path.read_bytes(), {"ETag": f'"{self.tag(path)}"', "X-Repo-Commit": commit})

        def tag(self, path: Path) -> str:
            return hashlib.sha1(path.read_bytes()).hexdigest()

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_client_to(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the hub's client, which read its settings when it was imported, use another hub and an own cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
