"""A stand-in for an engine or a front: reports as the real ones do, and fails as it is told.

`standin.py STATUS_FD KEY=VALUE...`; `runs` names a file with how often it was started, so that a fault can hit the
first start alone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from deploykit.supervise.child import bind_to_parent


def main() -> None:
    status = bind_to_parent(int(sys.argv[1]))
    options = dict(a.split("=", 1) for a in sys.argv[2:])
    runs = 1
    if "runs" in options:
        path = Path(options["runs"])
        runs = int(path.read_text()) + 1 if path.exists() else 1
        path.write_text(str(runs))
    print(f"start {runs}", file=sys.stderr)
    stop = threading.Event()
    if options.get("on_term") == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if options.get("grandchild"):
        import subprocess

        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(options["grandchild"]).write_text(str(child.pid))
    fault = options.get("fault") if runs >= int(options.get("fault_from", 1)) else None
    if fault == "fatal":
        status.fatal(
            "the model has no tokens", where="model.gguf", why="it is empty", fix="get another", exit_code=2
        )
        sys.exit(1)
    if fault == "exit":
        print("the last words", file=sys.stderr)
        sys.exit(3)
    if fault == "mute":
        time.sleep(600)
    beat = threading.Event()
    phase = ["idle", 0.0, 0]
    if fault != "deaf":

        def heartbeat() -> None:
            while not beat.is_set():
                status.heartbeat(phase[0], phase[1], phase[2])
                time.sleep(0.05)

        threading.Thread(target=heartbeat, daemon=True).start()
    status.stage("weights", 0.5)
    status.stage("warmup", 1.0)
    if "fd" in options:
        serve(int(options["fd"]), stop, float(options.get("drain", 0)))
    status.ready(num_blocks=7, bytes_measured=11)
    if fault == "stuck":  # alive, but its step doesn't move
        phase[:] = ["step", 0.2, 5]
    if fault == "silent":
        beat.set()
    if fault == "exit_later":
        time.sleep(0.2)
        os._exit(4)
    stop.wait()
    if "fd" in options:
        DRAINED.wait(float(options.get("drain", 0)) + 5)
    print("ended well", file=sys.stderr)


DRAINED = threading.Event()


def serve(fd: int, stop: threading.Event, drain: float) -> None:
    """Every connection gets its process id, then a `.` each 0.05 s until `drain` seconds after the stop."""
    listener = socket.socket(fileno=fd)
    listener.settimeout(0.05)
    threads: list[threading.Thread] = []

    def stream(connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(f"{os.getpid()}\n".encode())
                while not stop.is_set():
                    connection.sendall(b".")
                    time.sleep(0.05)
                time.sleep(drain)
                connection.sendall(b"[DONE]")
            except OSError:
                pass

    def accept() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=stream, args=(connection,))
            thread.start()
            threads.append(thread)
        listener.close()
        for thread in threads:
            thread.join()
        DRAINED.set()

    threading.Thread(target=accept, daemon=True).start()


if __name__ == "__main__":
    main()
