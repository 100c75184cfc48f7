"""What a step may ask for, on a tiny random model: iterations, stops, log probabilities, faults, copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_driver import Driver, Sequence, check_greedy, load
from pytorch_zoo import VOCAB, build
from transformers import PreTrainedModel

from deploykit.engine.pytorch import PytorchRunner
from deploykit.engine.types import (
    Admit,
    Capacity,
    Copy,
    Extend,
    Finish,
    Release,
    RunnerError,
    SamplingParams,
    Span,
    Step,
    Want,
    pack,
    unpack,
)

PROMPT = [7, 99, 23, 54, 3, 120, 8, 8, 31, 77, 64]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    folder = tmp_path_factory.mktemp("qwen2")
    return build("qwen2", folder), folder


@pytest.fixture(scope="module")
def loaded(reference: tuple[PreTrainedModel, Path]) -> tuple[PytorchRunner, Capacity]:
    return load(reference[1])


def greedy(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return out[0, len(prompt) :].tolist()


def test_capacity_and_block_bytes(loaded: tuple[PytorchRunner, Capacity]) -> None:
    _, capacity = loaded
    (group,) = capacity.groups
    assert capacity.vocab_size == VOCAB
    assert capacity.overlap_depth == 0
    assert (
        group.block_bytes == 3 * 2 * 2 * 12 * 8 * 4
    )  # layers, k and v, kv heads, head_dim, block_len, float32
    assert capacity.bytes_measured > 0


@pytest.mark.parametrize("iterations", [1, 3, 4, 40])
def test_several_iterations_in_a_step(
    reference: tuple[PreTrainedModel, Path], loaded: tuple[PytorchRunner, Capacity], iterations: int
) -> None:
    sequences = [Sequence(PROMPT[:n], 17) for n in (1, 6, 11)]
    Driver(*loaded).run(sequences, iterations=iterations)
    for s in sequences:
        assert len(s.output) == 17
        check_greedy(reference[0], s.prompt, s.output)


def test_stop_ids_and_eos_end_a_row(
    reference: tuple[PreTrainedModel, Path], loaded: tuple[PytorchRunner, Capacity]
) -> None:
    tokens = greedy(reference[0], PROMPT, 20)
    stop = next(t for i, t in enumerate(tokens) if i >= 5 and t not in tokens[:i])
    for by_eos in (False, True):
        s = Sequence(PROMPT, 20, **({} if by_eos else {"stop_token_ids": (stop,)}))
        s.eos = (stop,) if by_eos else ()
        driver = Driver(*loaded)
        driver.admit(s)
        finish = Finish.NONE
        while driver.running:
            result = driver.step([(s, len(s.tokens) - s.computed)])
            finish = Finish(int(unpack(result.finish)[0]))
        driver.step([])
        assert finish == Finish.STOP
        assert s.output == tokens[: tokens.index(stop) + 1]


def test_min_tokens_holds_the_stop_back(
    reference: tuple[PreTrainedModel, Path], loaded: tuple[PytorchRunner, Capacity]
) -> None:
    first = greedy(reference[0], PROMPT, 1)[0]
    s = Sequence(PROMPT, 12, stop_token_ids=(first,), min_tokens=4)
    Driver(*loaded).run([s])
    assert first not in s.output[:4]
    assert len(s.output) > 4


def test_prompt_logprobs_equal_the_models_own(
    reference: tuple[PreTrainedModel, Path], loaded: tuple[PytorchRunner, Capacity]
) -> None:
    prompt = [(i * 37) % VOCAB for i in range(45)]
    with torch.inference_mode():
        logits = reference[0](torch.tensor([prompt])).logits[0].double().log_softmax(-1)
    s = Sequence(prompt, 3, prompt_logprobs=4, logprobs=2)
    driver = Driver(*loaded)
    driver.admit(s)
    while driver.running:
        want = Want.PROMPT_LOGPROBS if s.computed < len(prompt) else Want.NONE
        driver.step([(s, min(13, len(s.tokens) - s.computed))], want=want)
    driver.step([])
    assert [p.token for p in s.prompt_logprobs] == prompt[1:]
    for at, found in enumerate(s.prompt_logprobs):
        row = logits[at]
        assert found.logprob == pytest.approx(float(row[found.token]), abs=1e-4)
        assert found.rank == 1 + int((row > row[found.token]).sum())
        best = row.topk(4)
        assert [i for i, _ in found.top] == best.indices.tolist()
    assert len(s.logprobs) == 3
    assert [p.token for p in s.logprobs] == s.output
    assert all(p.rank == 1 and len(p.top) == 2 and p.top[0][0] == p.token for p in s.logprobs)


def test_score_and_pool_draw_nothing(
    reference: tuple[PreTrainedModel, Path], loaded: tuple[PytorchRunner, Capacity]
) -> None:
    runner, _ = loaded
    step = Step(
        seq=1,
        rows=pack([2]),
        epochs=pack([900]),
        num_tokens=pack([len(PROMPT)]),
        flags=pack([int(Want.SCORE | Want.POOL)]),
        admits=(admit(2, 900),),
        extends=(Extend(2, 900, 0, (5, 6)),),
    )
    result = runner.collect(runner.launch(step))
    assert len(unpack(result.tokens)) == 0
    assert [p.token for p in result.prompt_logprobs[2]] == PROMPT[1:]
    with torch.inference_mode():
        hidden = reference[0].model(torch.tensor([PROMPT])).last_hidden_state[0, -1]
    assert np.frombuffer(result.pooled[2], np.float32) == pytest.approx(hidden.numpy(), abs=1e-3)
    release(runner, 2, 900)


def admit(row: int, epoch: int, prompt: list[int] = PROMPT, **changes: object) -> Admit:
    values: dict[str, object] = {
        "row": row,
        "epoch": epoch,
        "tokens": pack(prompt),
        "prompt_len": len(prompt),
        "computed": 0,
        "limit": len(prompt) + 8,
        "sampling": SamplingParams(temperature=0, max_tokens=8),
        "seed": 0,
    }
    return Admit(**{**values, **changes})  # type: ignore[arg-type]


def release(runner: PytorchRunner, *row_epochs: int) -> None:
    pairs = zip(row_epochs[::2], row_epochs[1::2], strict=True)
    step = Step(
        seq=0,
        rows=b"",
        epochs=b"",
        num_tokens=b"",
        flags=b"",
        releases=tuple(Release(row, epoch) for row, epoch in pairs),
    )
    runner.collect(runner.launch(step))


def run_one(runner: PytorchRunner, admission: Admit, count: int, flag: Want, blocks: tuple[int, ...]):  # type: ignore[no-untyped-def]
    row, epoch = admission.row, admission.epoch
    step = Step(
        seq=1,
        rows=pack([row]),
        epochs=pack([epoch]),
        num_tokens=pack([count]),
        flags=pack([int(flag)]),
        admits=(admission,),
        extends=(Extend(row, epoch, 0, blocks),),
    )
    return runner.collect(runner.launch(step))


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": "x"},
        {"grammar": 1},
        {"spans": (Span(0, 2, "h"),)},
        {"positions": pack(list(range(len(PROMPT))))},
    ],
    ids=["adapter", "grammar", "images", "positions"],
)
def test_what_is_not_served_fails_its_row_only(
    loaded: tuple[PytorchRunner, Capacity], changes: dict[str, object]
) -> None:
    runner, _ = loaded
    step = Step(
        seq=1,
        rows=pack([0, 1]),
        epochs=pack([50, 51]),
        num_tokens=pack([len(PROMPT)] * 2),
        flags=pack([int(Want.SAMPLE)] * 2),
        admits=(admit(0, 50, **changes), admit(1, 51)),
        extends=(Extend(0, 50, 0, (1, 2)), Extend(1, 51, 0, (3, 4))),
    )
    result = runner.collect(runner.launch(step))
    assert [(f.row, f.code) for f in result.failures] == [(0, "unsupported")]
    assert unpack(result.offsets).tolist() == [0, 0, 1]
    release(runner, 0, 50, 1, 51)


def test_a_fault_in_one_rows_numbers_stays_its_own(
    reference: tuple[PreTrainedModel, Path], loaded: tuple[PytorchRunner, Capacity]
) -> None:
    """A NaN in a row's keys fails that row; its blocks are clean when another row gets them, tail and all."""
    runner, _ = loaded
    run_one(runner, admit(0, 60), len(PROMPT), Want.SAMPLE, (1, 2))
    runner._pool.data[2] = float("nan")
    expected = greedy(reference[0], PROMPT[:5], 2)
    step = Step(
        seq=2,
        rows=pack([0, 1]),
        epochs=pack([60, 61]),
        num_tokens=pack([1, 5]),
        flags=pack([int(Want.SAMPLE)] * 2),
        admits=(admit(1, 61, PROMPT[:5]),),
        extends=(Extend(1, 61, 0, (3,)),),
    )
    result = runner.collect(runner.launch(step))
    assert [(f.row, f.code) for f in result.failures] == [(0, "nonfinite_logits")]
    assert unpack(result.tokens).tolist() == expected[:1]
    release(runner, 0, 60, 1, 61)
    result = run_one(runner, admit(3, 62, PROMPT[:5]), 5, Want.SAMPLE, (2,))
    assert not result.failures
    assert unpack(result.tokens).tolist() == expected[:1]
    step = Step(
        seq=4, rows=pack([3]), epochs=pack([62]), num_tokens=pack([1]), flags=pack([int(Want.SAMPLE)])
    )
    result = runner.collect(runner.launch(step))
    assert unpack(result.tokens).tolist() == expected[1:]
    release(runner, 3, 62)


def test_deferred_rows_wait_for_their_mask(loaded: tuple[PytorchRunner, Capacity]) -> None:
    runner, capacity = loaded
    step = Step(
        seq=1,
        rows=pack([0]),
        epochs=pack([70]),
        num_tokens=pack([len(PROMPT)]),
        flags=pack([int(Want.SAMPLE | Want.DEFERRED)]),
        admits=(admit(0, 70),),
        extends=(Extend(0, 70, 0, (1, 2)),),
    )
    ticket = runner.launch(step)
    mask = np.zeros(-(-capacity.vocab_size // 32), dtype=np.uint32)
    mask[41 // 32] = np.uint32(1) << np.uint32(41 % 32)
    ticket.sample({0: mask})
    result = runner.collect(ticket)
    assert unpack(result.tokens).tolist() == [41]
    release(runner, 0, 70)


def test_a_copied_block_continues_as_the_original(
    reference: tuple[PreTrainedModel, Path], loaded: tuple[PytorchRunner, Capacity]
) -> None:
    """Copy-on-write of a partial last block: a sibling computes only the last token."""
    runner, _ = loaded
    run_one(runner, admit(0, 80), len(PROMPT), Want.SAMPLE, (1, 2))
    step = Step(
        seq=2,
        rows=pack([1]),
        epochs=pack([81]),
        num_tokens=pack([1]),
        flags=pack([int(Want.SAMPLE)]),
        admits=(admit(1, 81, computed=len(PROMPT) - 1),),
        extends=(Extend(1, 81, 0, (1, 9)),),
        copies=(Copy(2, 9),),
    )
    result = runner.collect(runner.launch(step))
    assert unpack(result.tokens).tolist() == greedy(reference[0], PROMPT, 1)
    release(runner, 0, 80, 1, 81)


def test_releases_are_idempotent_and_epochs_are_told_apart(loaded: tuple[PytorchRunner, Capacity]) -> None:
    runner, _ = loaded
    run_one(runner, admit(0, 90), len(PROMPT), Want.SAMPLE, (1, 2))
    release(runner, 0, 90, 0, 90)
    result = run_one(runner, admit(0, 91), len(PROMPT), Want.SAMPLE, (1, 2))
    assert not result.failures
    release(runner, 0, 90)  # late, for the row's former use
    stale = Step(
        seq=3, rows=pack([0]), epochs=pack([90]), num_tokens=pack([1]), flags=pack([int(Want.SAMPLE)])
    )
    result = runner.collect(runner.launch(stale))
    assert [f.code for f in result.failures] == ["internal"]
    live = Step(
        seq=4, rows=pack([0]), epochs=pack([91]), num_tokens=pack([1]), flags=pack([int(Want.SAMPLE)])
    )
    result = runner.collect(runner.launch(live))
    assert not result.failures
    release(runner, 0, 91)


def test_a_row_without_blocks_fails_alone_and_a_wrong_step_fails_whole(
    loaded: tuple[PytorchRunner, Capacity],
) -> None:
    runner, _ = loaded
    result = run_one(runner, admit(0, 95), len(PROMPT), Want.SAMPLE, (1,))
    assert [f.code for f in result.failures] == ["internal"]
    with pytest.raises(RunnerError, match="not free"):
        run_one(runner, admit(0, 96), 1, Want.NONE, ())
    first = runner.launch(Step(seq=7, rows=b"", epochs=b"", num_tokens=b"", flags=b""))
    with pytest.raises(RunnerError, match="not collected"):
        runner.launch(Step(seq=8, rows=b"", epochs=b"", num_tokens=b"", flags=b""))
    runner.collect(first)
    release(runner, 0, 95)
