"""Runs a Supervisor over stand-ins and prints what it tells, one JSON line each. `host.py CONFIG_JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deploykit.supervise.listen import bind
from deploykit.supervise.supervisor import Supervisor
from deploykit.supervise.types import Limits, Listener, ProcessFailed

STANDIN = str(Path(__file__).with_name("standin.py"))


def tell(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def main() -> int:
    config = json.loads(sys.argv[1])
    if "backoff" in config["limits"]:
        config["limits"]["backoff"] = tuple(config["limits"]["backoff"])
    listening = bind("127.0.0.1", 0)
    fd = listening.fileno()
    tell("listening", port=listening.getsockname()[1])
    supervisor = Supervisor(
        lambda status: [sys.executable, STANDIN, str(status), *config["engine"]],
        lambda status: [sys.executable, STANDIN, str(status), f"fd={fd}", *config["front"]],
        listening_fd=fd,
        limits=Limits(**config["limits"]),
        listener=Listener(
            line=lambda source, text: tell("line", source=source, text=text),
            stage=lambda role, message: tell("stage", role=role, stage=message["stage"]),
            started=lambda role, pid: tell("started", role=role, pid=pid),
            ready=lambda detail: tell("ready", detail=detail),
            failed=lambda role, how, delay, count: tell(
                "failed", role=role, how=how, delay=delay, count=count
            ),
            draining=lambda: tell("draining"),
        ),
        owner_fd=config.get("owner_fd"),
    )
    try:
        code = supervisor.run()
    except ProcessFailed as error:
        tell("gave_up", what=error.what, why=error.why, fix=error.fix, tail=error.tail, code=error.exit_code)
        return error.exit_code
    tell("end", code=code)
    return code


if __name__ == "__main__":
    sys.exit(main())
