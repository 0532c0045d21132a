"""How many pods a second the extender binds, one after another and many at once, and whether two
replicas that bind at once ever give a device twice.

    bench/gpushare.py [--api URL --token TOKEN]    a real API server, which loses its pods and
                                                   nodes; without one, the stand-in of the tests

The original's client is limited to five requests a second, so to 2.5 pods.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx

from tests.conformance.test_gpushare import Play
from tests.standin.kubernetes import node, pod

NODES, DEVICES, SIZE, WANTS = 10, 4, 16, 4
ROUNDS, CROWD = 5, 10


def bind(http: httpx.Client, url: str, name: str, uid: str, where: str) -> str:
    said = {"PodName": name, "PodNamespace": "default", "PodUID": uid, "Node": where}
    answer = http.post(f"{url}/gpushare-scheduler/bind", json=said)
    return str(answer.json()["Error"])


def pods(play: Play, prefix: str, count: int, wants: int) -> dict[str, str]:
    """UIDs by name."""
    names = [f"{prefix}-{number}" for number in range(count)]
    return {n: play.cluster.put("pods", pod(n, [wants]))["metadata"]["uid"] for n in names}


def pace(play: Play, at_once: int) -> float:
    """Pods a second that are bound to all nodes in turn, until these are full."""
    count = NODES * DEVICES * SIZE // WANTS
    made = pods(play, f"p{at_once}", count, WANTS)
    where = [f"n{number % NODES}" for number in range(count)]
    with httpx.Client(timeout=30.0) as http, ThreadPoolExecutor(at_once) as pool:
        began_s = time.perf_counter()
        said = pool.map(
            lambda each: bind(http, play.url, *each[0], each[1]),
            zip(made.items(), where, strict=True),
        )
        refused = [error for error in said if error]
        took_s = time.perf_counter() - began_s
    assert not refused, refused[:3]
    for name in made:
        play.cluster.delete("pods", "default", name)
    return count / took_s


def race(play: Play, other: str) -> int:
    """Devices that were given twice in all rounds."""
    twice = 0
    for turn in range(ROUNDS):
        made = pods(play, f"race{turn}", CROWD, SIZE // 2 + 1)  # one on each device
        with httpx.Client(timeout=30.0) as http, ThreadPoolExecutor(CROWD) as pool:
            for number, (name, uid) in enumerate(made.items()):
                pool.submit(bind, http, (play.url, other)[number % 2], name, uid, "n0")
        held = Counter[str]()
        for name in made:
            found = play.cluster.get("pods", "default", name)
            if found["spec"].get("nodeName"):
                held[found["metadata"]["annotations"]["ALIYUN_COM_GPU_MEM_IDX"]] += 1
        assert sum(held.values()) == DEVICES, f"{held}: all devices are to be used"
        twice += sum(count > 1 for count in held.values())
        for name in made:
            play.cluster.delete("pods", "default", name)
    return twice


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--api", default="")
    parser.add_argument("--token", default="")
    args = parser.parse_args()
    os.environ |= {"SINGULARITY_KUBE_API": args.api, "SINGULARITY_KUBE_TOKEN": args.token}
    play = Play()
    try:
        for number in range(NODES):
            play.cluster.put("nodes", node(f"n{number}", DEVICES * SIZE, DEVICES))
        play.start()
        print(f"the API server is {args.api or 'the stand-in'}")
        for at_once in (1, 8):
            print(f"{at_once} at once: {pace(play, at_once):.1f} pods a second")
        twice = race(play, play.another())
        print(f"two replicas, {ROUNDS} rounds of {CROWD} pods for {DEVICES} devices: {twice} twice")
    finally:
        play.close()
    return 1 if twice else 0


if __name__ == "__main__":
    sys.exit(main())
