"""`python -m deploykit.supervise.detached`: the supervisor in the background, started by `launch`."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from deploykit.deployment.target import load
from deploykit.errors import EXIT_FAILURE, DeploykitError
from deploykit.supervise.events import EventWriter
from deploykit.supervise.run import Opened, absolute, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploykit.supervise.detached")
    parser.add_argument("--target", required=True)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--profile", action="append", default=[], dest="profiles")
    parser.add_argument("--listen-fd", type=int, required=True, help="the bound socket")
    parser.add_argument("--lock-fd", type=int, required=True, help="the held lock of the name")
    parser.add_argument("--events-fd", type=int, required=True, help="pipe to whoever waits for it")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--locked", action="store_true")
    parser.add_argument("--private", action="store_true", help="end when nobody reads the events any more")
    args = parser.parse_args()
    os.set_inheritable(args.lock_fd, False)
    os.set_inheritable(args.listen_fd, False)  # the front gets it by name
    events = EventWriter(args.events_fd)
    try:
        opened = Opened(
            load(args.target, sets=args.sets, profiles=args.profiles, locked=args.locked),
            absolute(args.target),
            socket.socket(fileno=args.listen_fd),
            args.lock_fd,
        )
        return run(
            opened,
            report=events.stage,
            offline=args.offline,
            private=args.private,
            owner_fd=args.events_fd if args.private else None,
        )
    except DeploykitError as error:
        events.failed(error)
        return error.exit_code
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        events.failed(DeploykitError("this is a bug in deploykit", why=why, exit_code=EXIT_FAILURE))
        raise


if __name__ == "__main__":
    sys.exit(main())
