"""What the machine itself can do: read bandwidth, measured beside the figures.

`python -m deploykit.bench.ceilings SECONDS` is one reader: it waits for a line on stdin, sums a large array again and
again, and prints how many bytes it read a second.
"""

from __future__ import annotations

import subprocess
import sys
import time

from deploykit.bench.versus_report import Ceilings
from deploykit.supervise.process import child_env, python_module

ARRAY_BYTES = 512 << 20  # far above every cache
SECONDS = 2.0


def measure(threads: int, seconds: float = SECONDS) -> Ceilings:
    """All threads reading at once, one process each."""
    command = [*python_module("deploykit.bench.ceilings"), str(seconds)]
    readers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_env())
        for _ in range(threads)
    ]
    rates = []
    try:
        for reader in readers:  # both have their array before any begins
            if reader.stdout is not None:
                reader.stdout.readline()
        for reader in readers:
            if reader.stdin is not None:
                reader.stdin.write("go\n")
                reader.stdin.flush()
        for reader in readers:
            out, _ = reader.communicate()
            rates.append(float(out) if reader.returncode == 0 and out else None)
    finally:
        for reader in readers:
            if reader.poll() is None:
                reader.kill()
                reader.wait()
    known = [rate for rate in rates if rate is not None]
    total = sum(known) / 1e9 if len(known) == threads else None
    source = f"numpy sums of {ARRAY_BYTES >> 20} MiB in {threads} processes, {seconds:g} s"
    return Ceilings(read_gbytes_per_s=total, int8_gops=None, source=source)


def read(seconds: float) -> None:
    import numpy as np

    array = np.ones(ARRAY_BYTES // 8, dtype=np.int64)
    print("ready", flush=True)
    sys.stdin.readline()
    start, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds:
        array.sum()
        count += 1
    print(count * array.nbytes / taken)


if __name__ == "__main__":
    read(float(sys.argv[1]))
