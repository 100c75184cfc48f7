"""Greedy tokens of tiny random models equal transformers.generate, alone and in random batches."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pytorch_driver import Driver, Sequence, check_greedy, load
from pytorch_zoo import VOCAB, ZOO, build


@pytest.mark.parametrize("name", ZOO)
def test_greedy_equals_generate(name: str, tmp_path: Path) -> None:
    reference = build(name, tmp_path)
    runner, capacity = load(tmp_path)
    rng = random.Random(name)
    prefix = [rng.randrange(VOCAB) for _ in range(19)]
    prompts = [[rng.randrange(VOCAB) for _ in range(n)] for n in (1, 5, 23)]
    prompts += [prefix + [rng.randrange(VOCAB) for _ in range(n)] for n in (2, 9)]

    alone = [Sequence(p, 24) for p in prompts]
    for s in alone:
        Driver(runner, capacity).run([s])
    together = [Sequence(p, 24) for p in prompts]
    driver = Driver(runner, capacity, seed=1)
    driver.run_randomly(together)

    compared = ties = 0
    for s in (*alone, *together):
        assert s.failure is None
        assert len(s.output) == 24
        count, tie = check_greedy(reference, s.prompt, s.output)
        compared, ties = compared + count, ties + tie
    assert compared >= 24 * 8, "random weights should hardly ever meet near ties"
    runner.close()
