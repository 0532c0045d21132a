"""The server as a process: its commands, and that it goes when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psycopg
import pytest

from singularity.cli.servers import Postgres, free_port
from tests.integration.api_client import ADMIN, bearer

_ARGV = [sys.executable, "-m", "singularity.api"]


def _environment(database_url: str, data: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SINGULARITY_DATABASE_URL": database_url,
        "SINGULARITY_DATA": str(data),
        "SINGULARITY_VOLUME": str(data / "volume"),
        "SINGULARITY_ADMIN_TOKEN": ADMIN,
        "SINGULARITY_PORT": str(free_port()),
    }


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        assert process.poll() is None, "the server has ended"
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def test_a_server_migrates_serves_and_goes_though_a_stream_is_open(
    postgres: Postgres, tmp_path: Path
) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("CREATE DATABASE bare")
    environment = _environment(postgres.url.rpartition("/")[0] + "/bare", tmp_path)
    subprocess.run([*_ARGV, "migrate"], env=environment, check=True, timeout=60)
    process = subprocess.Popen([*_ARGV, "serve"], env=environment)
    try:
        url = f"http://127.0.0.1:{environment['SINGULARITY_PORT']}"
        _wait_for(f"{url}/healthz", process)
        with httpx.stream("GET", f"{url}/v1/events?follow=1", headers=bearer(ADMIN)) as stream:
            assert stream.status_code == 200
            process.send_signal(signal.SIGTERM)
            assert list(stream.iter_text()) == []
        assert process.wait(timeout=15) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["schedule", "relay", "watch", "tidy"])
def test_a_loop_goes_when_it_is_told_to(database: str, tmp_path: Path, name: str) -> None:
    process = subprocess.Popen(
        [*_ARGV, "loop", name], env=_environment(database, tmp_path), stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        assert any(b'"leading"' in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.communicate()


def test_settings_that_lack_something_are_named(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SINGULARITY_")}
    done = subprocess.run(
        [*_ARGV, "serve"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "SINGULARITY_DATABASE_URL" in done.stderr and "Traceback" not in done.stderr
