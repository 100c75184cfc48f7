"""The engine process: load a runner, then move requests and results between the link and the core."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import msgspec

from deploykit.engine.core import EngineCore
from deploykit.engine.link import Gone, Link
from deploykit.engine.protocol import (
    PROTOCOL_VERSION,
    Abort,
    Drain,
    Failed,
    FlushCache,
    Heartbeat,
    Hello,
    LoadAdapter,
    Probe,
    Ready,
    StepOutputs,
    Submit,
    ToEngine,
    UnloadAdapter,
)
from deploykit.engine.types import Capacity, Runner
from deploykit.plan.types import Plan
from deploykit.supervise.child import StatusWriter

HEARTBEAT_S = 1.0
LOAD_EXPECTED_S = 900.0  # a loading phase that makes no progress for so long counts as a hang
STEP_EXPECTED_S = 60.0
IDLE_CHECK_S = 30.0  # between integrity checks of an idle engine
log = logging.getLogger(__name__)


def make_runner(plan: Plan) -> Runner:
    """The runner that the plan names. Raises ValueError for one that this version doesn't have."""
    if plan.engine == "pytorch":
        from deploykit.engine.pytorch import PytorchRunner

        return PytorchRunner()
    if plan.engine == "native":
        from deploykit.engine.native import NativeRunner

        return NativeRunner()
    if plan.engine == "fake":
        if os.environ.get("DEPLOYKIT_TESTING") != "1":
            raise ValueError("the fake runner is for tests: it needs DEPLOYKIT_TESTING=1")
        from deploykit.engine.fake import FakeRunner

        return FakeRunner()
    raise ValueError(f"there is no runner {plan.engine!r} in this version")


class EngineProcess:
    """One engine over one link. `run` returns after SIGTERM, or `stop`."""

    def __init__(self, plan: Plan, socket_path: Path, status: StatusWriter) -> None:
        self.plan = plan
        self.status = status
        self.link = Link(socket_path)
        self.core: EngineCore | None = None
        self.ready: Ready | None = None
        self._stopping = False
        self._draining = False
        self._phase = "engine"
        self._progress = 0.0

    def run(self, *, own_process: bool = True) -> None:
        """Load, then serve until told to stop. Signals are the caller's where it is not a process of its own."""
        if own_process:
            signal.signal(signal.SIGTERM, self._stop)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to handle
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        runner = make_runner(self.plan)
        capacity = runner.load(self.plan, self._report)
        self.core = EngineCore(
            runner, capacity, self.plan, overlap=os.environ.get("DEPLOYKIT_OVERLAP", "1") != "0"
        )
        self.ready = self._make_ready(capacity)
        self._phase = "idle"
        self.status.ready(**msgspec.to_builtins(self.ready))
        try:
            self._loop(self.core)
        finally:
            self.link.close()
            runner.close()

    def stop(self) -> None:
        """From any thread: end after the step at work, or after loading."""
        self._stopping = True
        self.link.wake.set()

    def _stop(self, *_: object) -> None:
        if self.core is None:
            self.link.close()
            os._exit(0)  # still loading: there is nothing to finish
        self.stop()

    def _report(self, stage: str, fraction: float) -> None:
        self._phase, self._progress = stage, fraction
        self.status.stage(stage, fraction)

    def _make_ready(self, capacity: Capacity) -> Ready:
        group = capacity.groups[0]
        return Ready(
            version=PROTOCOL_VERSION,
            engine=self.plan.engine,
            device=self.plan.device,
            dtype=self.plan.dtype,
            max_rows=capacity.max_rows,
            session_len=capacity.session_len,
            vocab_size=capacity.vocab_size,
            block_len=group.block_len,
            num_blocks=group.num_blocks,
            credits=self.plan.max_batch_size + self.plan.max_queue,
            bytes_predicted=capacity.bytes_predicted,
            bytes_measured=capacity.bytes_measured,
            weight_bytes=capacity.weight_bytes,
            block_bytes=group.block_bytes,
            head_error=capacity.head_error,
        )

    # ------------------------------------------------------------ the loop

    def _loop(self, core: EngineCore) -> None:
        inbox, wake = self.link.inbox, self.link.wake
        checked = time.monotonic()
        while not self._stopping:
            while inbox:
                self._handle(core, *inbox.popleft())
            core.expire(time.monotonic())
            if core.has_work:
                self._phase = "step"
                core.step()
            else:
                self._phase = "idle"
                if time.monotonic() - checked > IDLE_CHECK_S:
                    core.scheduler.check()
                    checked = time.monotonic()
            self._publish(core)
            if not core.has_work and not inbox:
                wake.wait(1.0)
            wake.clear()

    def _publish(self, core: EngineCore) -> None:
        outputs, failures = core.take_events()
        for connection, items in outputs.items():
            self.link.send(connection, StepOutputs(tuple(items)))
        for connection, failure in failures:
            self.link.send(connection, failure)

    def _handle(self, core: EngineCore, connection: int, message: ToEngine | Gone) -> None:
        match message:
            case Submit():
                if self._draining:
                    self.link.send(
                        connection, Failed(id=message.id, code="draining", reason="the engine is draining")
                    )
                else:
                    core.submit(message, connection)
            case Abort():
                core.abort(message.id, connection)
            case Gone():
                core.abort_connection(connection)
            case Hello():
                self._greet(connection, message)
            case Drain():
                self._draining = True
            case Probe():
                self.link.send(connection, self._heartbeat())
            case FlushCache():
                core.scheduler.pool.flush()
            case LoadAdapter() | UnloadAdapter():
                log.error("adapters are not served by this engine: %s is ignored", type(message).__name__)

    def _greet(self, connection: int, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            log.error("a client speaks protocol %d, this engine %d", hello.version, PROTOCOL_VERSION)
        if self.ready is not None:  # greetings that came while loading stand in the inbox until now
            self.link.send(connection, self.ready)

    # ------------------------------------------------------------ heartbeats

    def _beat(self) -> None:
        while True:
            expected = {"step": STEP_EXPECTED_S, "idle": STEP_EXPECTED_S}.get(self._phase, LOAD_EXPECTED_S)
            step = self.core.counters.steps if self.core is not None else 0
            self.status.heartbeat(self._phase, expected, step)
            self.link.broadcast(self._heartbeat())
            time.sleep(HEARTBEAT_S)

    def _heartbeat(self) -> Heartbeat:
        core = self.core
        if core is None:
            return Heartbeat(phase=self._phase, progress=self._progress, expected_s=LOAD_EXPECTED_S)
        scheduler, counters = core.scheduler, core.counters
        return Heartbeat(
            phase=self._phase,
            expected_s=STEP_EXPECTED_S,
            step=counters.steps,
            running=len(scheduler.running),
            waiting=scheduler.num_waiting,
            blocks_total=scheduler.pool.num_blocks,
            blocks_used=scheduler.pool.num_held,
            blocks_cached=scheduler.pool.num_cached,
            preemptions=scheduler.preemptions,
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=counters.cached_tokens,
            output_tokens=counters.output_tokens,
            aborted=counters.aborted,
            failed=counters.failed,
        )
