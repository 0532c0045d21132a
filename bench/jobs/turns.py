"""One of two processes that take turns on a slot with nothing else to do: `turns.py DIR TURNS`.

Each keeps the token until the other waits for it, and prints when it let go of it and when it had
it again. By the clock that all processes have in common.
"""

import sys
import time
from pathlib import Path

from singularity.agent.interposer.slots import Slots

TURN_S = 0.002

slots = Slots(Path(sys.argv[1]))
slots.follow(0)
for _ in range(int(sys.argv[2])):
    until_s = time.perf_counter() + TURN_S
    while time.perf_counter() < until_s:
        pass
    let_go_s = time.perf_counter()
    with slots.yielded():
        time.sleep(TURN_S / 2)  # the other has it by then
    print(f"{let_go_s:.9f} {time.perf_counter():.9f}")
