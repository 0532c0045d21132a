"""Prints what a page must not take for its own, then a line for each file that comes; ends with the
file `end`."""

import sys
import time
from pathlib import Path

place = Path(sys.argv[1])
print("<img src=x onerror='window.hit=1'><script>window.hit=1</script>", flush=True)
told: set[str] = set()
while not (place / "end").exists():
    for path in sorted(place.glob("line-*")):
        if path.name not in told:
            told.add(path.name)
            print(f"here is {path.name}", flush=True)
    time.sleep(0.05)
