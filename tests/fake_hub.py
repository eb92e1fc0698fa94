"""A hub on this machine: one repository, at the addresses that huggingface_hub asks, with ranges, pauses and breaks."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

SOURCE = "lab/tiny"
COMMIT = "c" * 40


@dataclass
class FakeHub:
    """What it holds, how it behaves, and what it was asked."""

    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})
    gated: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    stall_at: int = -1
    """Position in a file behind which nothing comes any more."""
    break_at: int = -1
    """Position behind which the first connection breaks."""
    going: threading.Event = field(default_factory=threading.Event)
    sent: list[tuple[str, int]] = field(default_factory=list)
    """File and first position of every download."""

    def entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        found: dict[str, Any] = {"rfilename": name, "path": name, "type": "file", "size": len(data)}
        found |= {"blobId": git, "oid": git}
        if name.endswith(".safetensors"):
            found["lfs"] = {"sha256": (sha := hashlib.sha256(data).hexdigest()), "oid": sha, "size": len(data),
                            "pointerSize": 100}  # fmt: skip
        return found

    def etag(self, name: str) -> str:
        entry = self.entry(name)
        return str(entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"])

    def answer(self, path: str) -> Any:
        if not path.startswith(f"/api/models/{SOURCE}"):
            return None
        if "/tree/" in path:
            return [self.entry(name) for name in self.files]
        return {
            "_id": "1", "id": SOURCE, "sha": COMMIT, "gated": "auto" if self.gated else False, "cardData": self.card,
            "siblings": [self.entry(name) for name in self.files], "config": self.config, "tags": [],
            "safetensors": {"parameters": {"BF16": 1000}, "total": 1000},
        }  # fmt: skip


@contextmanager
def served(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub at an address that the libraries take for theirs, with a cache of its own."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            match = re.fullmatch(rf"/{SOURCE}/resolve/[^/]+/(.+)", path)
            if match and match[1] in hub.files:
                self.file(match[1])
                return
            answer = hub.answer(path)
            body = json.dumps(answer if answer is not None else {"error": "Repository not found"}).encode()
            self.send_response(200 if answer is not None else 404)
            if answer is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def file(self, name: str) -> None:
            data = hub.files[name]
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hub.etag(name)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            hub.sent.append((name, start))
            ends = [at for at in (hub.stall_at, hub.break_at) if start <= at < len(data)]
            end = min(ends, default=len(data))
            self.wfile.write(data[start:end])
            self.wfile.flush()
            if end == hub.break_at:
                hub.break_at = -1
            elif end < len(data):
                hub.going.wait(20)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    try:
        yield
    finally:
        hub.going.set()
        server.shutdown()
        thread.join()
        server.server_close()
