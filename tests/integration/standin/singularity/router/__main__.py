"""Says that it is well, once it has a token."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if os.environ["SINGULARITY_ROUTER_TOKEN"] else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


address = os.environ["SINGULARITY_HOST"], int(os.environ["SINGULARITY_PORT"])
ThreadingHTTPServer(address, Handler).serve_forever()
