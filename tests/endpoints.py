"""Servers that speak OpenAI's completions API: llama.cpp's own, and one that answers as a test says."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LLAMACPP = ROOT / ".venv-llamacpp/bin/python"

Answer = tuple[int, str | bytes]
"""Status and body; a body of bytes is an event stream."""
Act = Callable[[str, dict[str, Any], dict[str, str]], Answer]


def need_llamacpp() -> None:
    """Skip the test where llama.cpp is not installed."""
    if not LLAMACPP.is_file() or not list(LLAMACPP.parents[1].glob("lib/*/site-packages/xllamacpp")):
        pytest.skip("there is no xllamacpp in .venv-llamacpp: make unit installs it where it has a wheel")


@contextmanager
def llama_cpp(path: Path) -> Iterator[str]:
    """llama.cpp serving a GGUF file: its address."""
    need_llamacpp()
    process = subprocess.Popen(
        [LLAMACPP, ROOT / "tests/llamacpp.py", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"{process.stdout.readline().strip()}/v1"
        process.stdin.close()


@contextmanager
def made_server(act: Act) -> Iterator[str]:
    """A server of this process that answers as ``act`` (path, body, headers) says: its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: dict[str, Any]) -> None:
            status, text = act(self.path, body, dict(self.headers))
            self.send_response(status)
            content = text if isinstance(text, bytes) else text.encode()
            if content is not text:  # a stream ends with the connection
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
