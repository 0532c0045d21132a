"""Joins by a file in the volume; has a helper in its session and a rank in one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

SLEEP = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
node, here = os.environ["SINGULARITY_NODE"], Path(os.environ["SINGULARITY_NODE_DIR"])
record = here / "sandboxes" / "job.1.0" / "state.json"
if not record.exists():  # else the rank outlived an earlier agent
    record.parent.mkdir(parents=True)
    rank = subprocess.Popen(SLEEP, start_new_session=True)
    stat = Path(f"/proc/{rank.pid}/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    state = {"supervisor": {"pid": rank.pid, "started_ticks": int(stat[19]), "boot": boot}}
    record.write_text(json.dumps({**state, "cgroup": None}))
with suppress(FileNotFoundError, ProcessLookupError):
    os.kill(int((here / "helper").read_text()), signal.SIGKILL)
helper = subprocess.Popen(SLEEP)
(here / "helper").write_text(str(helper.pid))
joined = Path(os.environ["SINGULARITY_VOLUME"], "nodes", node)
joined.parent.mkdir(exist_ok=True)
joined.write_text(str(time.time()))
signal.signal(signal.SIGTERM, lambda *_: (helper.kill(), sys.exit(0)))
while True:
    signal.pause()
