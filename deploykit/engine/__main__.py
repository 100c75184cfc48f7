"""`python -m deploykit.engine --plan FILE --socket PATH --status-fd N`: the engine process."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from deploykit.supervise.child import bind_to_parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploykit.engine")
    parser.add_argument("--plan", type=Path, required=True, help="JSON file of the plan")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--status-fd", type=int, required=True, help="pipe to the supervisor")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    args = parser.parse_args()
    status = bind_to_parent(args.status_fd)
    logging.basicConfig(
        level=args.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s engine %(levelname)s %(message)s",
    )

    import msgspec

    from deploykit.engine.faults import Faults
    from deploykit.engine.process import EngineProcess
    from deploykit.errors import DeploykitError
    from deploykit.plan.types import Plan

    try:
        Faults.from_environment()  # refused without DEPLOYKIT_TESTING=1, whatever the runner
        plan = msgspec.json.decode(args.plan.read_bytes(), type=Plan)
        EngineProcess(plan, args.socket, status).run()
    except DeploykitError as error:
        logging.error("%s", error)
        status.fatal(error.what, where=error.where, why=error.why, fix=error.fix, exit_code=error.exit_code)
        return 1
    except MemoryError as error:
        status.fatal(
            "the engine ran out of memory",
            why=str(error) or "the operating system refused an allocation",
            fix="set a smaller engine.session_len or engine.max_batch_size, or a smaller model",
        )
        return 1
    except Exception as error:
        logging.exception("the engine ended")
        status.fatal(f"the engine ended: {type(error).__name__}: {error}", why="see the log")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
