"""EngineClient by itself, as the pipeline uses it too."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from server_harness import EOS, REPLY, StandInEngine
from tokenizers import Tokenizer

from deploykit.engine.protocol import Submit
from deploykit.engine.types import SamplingParams, pack, unpack
from deploykit.server import client as client_module
from deploykit.server.client import EngineBusy, EngineClient, EngineState, EngineUnavailable, RequestFailed


@pytest.fixture
def stand_in(folder: Path, tokenizer: Tokenizer) -> Iterator[StandInEngine]:
    engine = StandInEngine(folder / "client.sock", tokenizer, credits=2)
    engine.start()
    yield engine
    engine.stop()


def submit(number: int = 0, **changes: object) -> Submit:
    return Submit(id=f"r{number}", token_ids=pack([5, 6]), sampling=SamplingParams(max_tokens=99), **changes)


def run(engine: StandInEngine, work: Callable[[EngineClient], Awaitable[None]]) -> None:
    async def main() -> None:
        client = EngineClient(str(engine.socket_path))
        await client.start()
        try:
            await client.wait_ready(5)
            await work(client)
        finally:
            await client.close()

    asyncio.run(main())


def test_outputs_of_every_sequence(stand_in: StandInEngine) -> None:
    async def work(client: EngineClient) -> None:
        tokens: dict[int, list[int]] = {0: [], 1: []}
        async for output in client.generate(submit(n=2)):
            tokens[output.index] += unpack(output.tokens).tolist()
        expected = [*stand_in.tokenizer.encode(REPLY).ids, EOS]
        assert tokens == {0: expected, 1: expected}
        assert client.unfinished == 0
        assert stand_in.aborts == []

    run(stand_in, work)


def test_leaving_early_aborts_once(stand_in: StandInEngine) -> None:
    stand_in.script.hold_after = 2

    async def work(client: EngineClient) -> None:
        async with contextlib.aclosing(client.generate(submit())) as outputs:
            async for _ in outputs:
                break
        client.abort("r0")
        client.abort("never heard of")
        await asyncio.to_thread(stand_in.wait_for, lambda: not stand_in.live)
        assert stand_in.aborts == ["r0"]

    run(stand_in, work)


def test_what_it_raises(stand_in: StandInEngine) -> None:
    async def work(client: EngineClient) -> None:
        stand_in.script.fail = ("invalid", "because")
        with pytest.raises(RequestFailed) as failed:
            await anext(client.generate(submit()))
        assert (failed.value.code, failed.value.reason) == ("invalid", "because")
        stand_in.script.fail = None
        stand_in.script.hold_after = 1
        held = [client.generate(submit(number)) for number in (1, 2)]
        for outputs in held:
            await anext(outputs)
        with pytest.raises(EngineBusy):
            client.check()
        with pytest.raises(EngineBusy):
            await anext(client.generate(submit(3)))
        waiting = [asyncio.create_task(anext(outputs)) for outputs in held]
        await asyncio.sleep(0)
        await asyncio.to_thread(stand_in.stop)
        for task in waiting:
            with pytest.raises(EngineUnavailable) as lost:
                await task
            assert lost.value.code == "engine_restarted"
        with pytest.raises(EngineUnavailable):
            client.check()
        stand_in.script.hold_after = None
        await asyncio.to_thread(stand_in.start)
        await client.wait_ready(5)
        assert [output async for output in client.generate(submit(4))]
        assert client.state.restarts == 1

    run(stand_in, work)


def test_a_reader_that_never_reads_is_given_up(
    stand_in: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_UNREAD", 5)

    async def work(client: EngineClient) -> None:
        outputs = client.generate(submit())
        await anext(outputs)
        await asyncio.sleep(0.3)
        with pytest.raises(RequestFailed) as failed:
            [output async for output in outputs]
        assert failed.value.code == "slow_client"

    stand_in.script.delay = 0.005
    run(stand_in, work)


def test_no_engine_is_no_hang(folder: Path) -> None:
    async def main() -> None:
        client = EngineClient(str(folder / "nobody.sock"))
        await client.start()
        with pytest.raises(EngineUnavailable) as caught:
            client.check()
        assert caught.value.code == "engine_starting"
        with pytest.raises(TimeoutError):
            await client.wait_ready(0.1)
        await client.close()

    asyncio.run(main())


def test_a_silent_engine_counts_as_stuck() -> None:
    state = EngineState(phase="ready", last_message=time.monotonic())
    assert not state.stuck
    state.last_message -= client_module.HEARTBEAT_LIMIT + 1
    assert state.stuck
