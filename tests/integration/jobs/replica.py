"""A replica for tests: an HTTP server that does as it is told, and says what it saw.

/hold?gate=G   answers when gate G is open (/open?gate=G), with how many it held then
/stream?gate=G a first piece at once, a second one when the gate is open
/take          reads the body as it comes; /state says how many bytes so far
/broken        half an answer, then the line is cut
/drop          no answer at all
/flood         64 MiB
/state         what it has seen, as JSON
/health        200 once gate `ready` is open, where it was started with a third argument
/hang          from now on it answers no /health any more
Told to end (SIGTERM) it ends what it holds, says so on stdout, and goes.
Everything else is answered with the request itself.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

silent = threading.Event()
gates = defaultdict(threading.Event)
lock = threading.Lock()
seen = {"held": 0, "most": 0, "served": 0, "bytes": 0, "dropped": 0, "ids": []}


class Replica(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = parse_qs(asked.query)
        gate = gates[query.get("gate", [""])[0]]
        if asked.path == "/flood":
            self.flood()
            return
        match asked.path:
            case "/open":
                gate.set()
                self.answer({})
            case "/state":
                self.answer(dict(seen))
            case "/hold":
                with lock:
                    seen["ids"].append(self.headers["X-Request-Id"])
                    seen["held"] += 1
                    seen["most"] = max(seen["most"], seen["held"])
                gate.wait()
                with lock:
                    seen["held"] -= 1
                    seen["served"] += 1
                self.answer({"replica": sys.argv[2]})
            case "/stream":
                self.stream(gate)
            case "/broken":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
            case "/drop":
                seen["dropped"] += 1
                self.close_connection = True
            case "/fail":
                self.answer({}, 500)
            case "/health":
                if silent.is_set():
                    threading.Event().wait()
                ready = len(sys.argv) < 4 or gates["ready"].is_set()
                self.answer({}, 200 if ready else 503)
            case "/hang":
                silent.set()
                self.answer({})
            case _:
                self.echo()

    do_PUT = do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        if urlsplit(self.path).path == "/drop":
            self.do_GET()
            return
        self.echo()

    def echo(self) -> None:
        body = self.body()
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        found = {"method": self.command, "path": self.path, "headers": headers, "bytes": len(body)}
        self.answer({**found, "replica": sys.argv[2], "body": body[:100].decode(errors="replace")})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
            seen["bytes"] = len(whole)
        self.rfile.readline()
        return whole

    def flood(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(64 << 20))
        self.end_headers()
        for _ in range(64):
            self.wfile.write(bytes(1 << 20))

    def stream(self, gate: threading.Event) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"data: one\n\n", b"data: two\n\n"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
            if piece.startswith(b"data: one"):
                gate.wait()
        self.wfile.write(b"0\r\n\r\n")
        seen["served"] += 1

    def answer(self, found: object, status: int = 200) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(os.environ.get("PORT") or sys.argv[1])), Replica)
    print(server.server_address[1], flush=True)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    while seen["held"]:
        time.sleep(0.01)
    print("ended well", flush=True)
