"""Serves the list of nodes that the stand-in agents wrote into the volume; gives routers tokens."""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        nodes = Path(os.environ["SINGULARITY_VOLUME"], "nodes").glob("*")
        self.answer({"items": [{"id": node.name, "lost": False} for node in nodes]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"token": "of-a-router"})

    def answer(self, found: object) -> None:
        allowed = self.headers["Authorization"] == f"Bearer {os.environ['SINGULARITY_ADMIN_TOKEN']}"
        body = json.dumps(found).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


match sys.argv[1:]:
    case ["migrate"]:
        Path(os.environ["SINGULARITY_DATA"], "migrated").write_text("yes")
    case ["serve"]:
        address = os.environ["SINGULARITY_HOST"], int(os.environ["SINGULARITY_PORT"])
        ThreadingHTTPServer(address, Handler).serve_forever()
    case ["loop", _]:
        signal.pause()
