"""Serve a small CNN that knows handwritten digits, over HTTP with the standard library.

It knows nothing of Singularity: `PORT=8000 python serve.py` serves too, and
`curl -d '{"pixels": [0, 0, ...]}' localhost:8000/classify` (64 numbers from 0 to 16) is answered
with the digit. Without --weights, of examples/digits/train.py or kept by --keep, it learns for a
moment first.
"""

import argparse
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from torch import nn

PIXELS = 64


class Digits(BaseHTTPRequestHandler):
    """GET / says that the model is loaded; POST /classify asks it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits 40 ms for its header's receipt
    model: nn.Module
    device_s = 0.0
    timeout = 5.0  # of a connection that is not used: one that is told to end waits for it

    def do_GET(self) -> None:
        self.answer(200, {"model": "digits"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            pixels = torch.tensor(json.loads(body)["pixels"], dtype=torch.float32)
            image = pixels.reshape(1, 1, 8, 8) / 16
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            self.answer(422, {"detail": f"want 64 pixels from 0 to 16: {error}"})
            return
        began_s = time.perf_counter()
        with torch.inference_mode():
            shares = self.model(image).softmax(1)[0]
        time.sleep(max(0.0, self.device_s - (time.perf_counter() - began_s)))
        self.answer(200, {"digit": int(shares.argmax()), "share": float(shares.max())})

    def answer(self, status: int, found: object) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for them
    request_queue_size = 128


def cnn(width: int) -> nn.Module:
    """As examples/digits/train.py makes it."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def learned(epochs: int = 2) -> nn.Module:
    from sklearn.datasets import load_digits  # slow to import, and not needed with weights

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    model = cnn(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for x, y in zip(images.split(64), torch.tensor(digits.target).split(64), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def loaded(path: Path) -> nn.Module:
    weights = torch.load(path, weights_only=True)
    model = cnn(weights["0.weight"].shape[0])
    model.load_state_dict(weights)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8000")))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--keep", type=Path, help="learn, write weights there, and end")
    parser.add_argument(
        "--device-ms",
        type=float,
        default=0.0,
        help="least time of an answer: stands for an accelerator where there is none",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.keep:
        torch.save(learned().state_dict(), args.keep)
        return
    Digits.model = loaded(args.weights) if args.weights else learned()
    Digits.device_s = args.device_ms / 1000
    server = Server(("", args.port), Digits)
    # A thread, for shutdown() waits for the loop that this signal interrupts.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()


if __name__ == "__main__":
    main()
