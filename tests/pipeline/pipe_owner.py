"""A program that owns a pipe, for the tests that end it: `pipe_owner.py HOW MODEL`; it prints the engine's pid."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from deploykit import GenerationConfig, pipeline


def main() -> None:
    how, model = sys.argv[1:]
    made = []
    thread = threading.Thread(target=lambda: made.append(pipeline(model)))  # ends before the pipe is used
    thread.start()
    thread.join()
    pipe = made.pop()
    print(pipe._core.host.pid, pipe._core.host.folder, flush=True)
    assert pipe("Hi", GenerationConfig(max_new_tokens=3)).generate_token_len == 3
    long = GenerationConfig(max_new_tokens=1900)
    if how == "exit":
        pass  # never closed
    elif how == "raise":
        raise RuntimeError("the program's own")
    elif how == "threads":
        for _ in range(3):  # they go on after the main thread has come to its end
            threading.Thread(target=lambda: pipe(["Hi"] * 5)).start()
    elif how == "stream":
        stream = pipe.stream("Hi", long)
        next(iter(stream))
        sys.exit(3)
    elif how == "kill":
        threading.Thread(target=lambda: pipe("Hi", long)).start()
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "fork":
        child = os.fork()
        if child == 0:
            try:
                pipe("Hi")
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            sys.exit(0)  # with all that runs at an interpreter's end
        os.waitpid(child, 0)
        print(pipe("Hi", GenerationConfig(max_new_tokens=3)).generate_token_len, flush=True)
        pipe.close()
    elif how == "drop":
        del pipe
        print("dropped", flush=True)
        time.sleep(30)
    elif how == "terminal":
        pipe("Hi", long)


if __name__ == "__main__":
    main()
