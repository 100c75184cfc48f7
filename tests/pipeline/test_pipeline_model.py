"""Every field of GenerationConfig does what it says, on the real model; and a conversation with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploykit import EngineConfig, GenerationConfig, Pipeline, Response, pipeline

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "smollm2-135m.yaml"
PROMPT = "Count from one to five in words."


@pytest.fixture(scope="module")
def pipe(smollm2: Path) -> Iterator[Pipeline]:
    engine = EngineConfig(session_len=1024, max_batch_size=4, threads=2)
    with pipeline(
        RECIPE, engine_config=engine, generation_config=GenerationConfig(max_new_tokens=24)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def greedy(pipe: Pipeline) -> Response:
    return pipe(PROMPT, GenerationConfig(logprobs=3))


def ask(pipe: Pipeline, **fields: Any) -> Response:
    response = pipe(PROMPT, GenerationConfig(**fields))
    assert response.generate_token_len <= fields.get("max_new_tokens", 24)
    return response


def test_the_default_is_greedy(pipe: Pipeline, greedy: Response) -> None:
    assert (pipe._core.ready.session_len, pipe._core.ready.max_rows) == (1024, 4)
    assert ask(pipe).token_ids == greedy.token_ids
    assert ask(pipe, temperature=0, top_k=0).token_ids == greedy.token_ids
    assert ask(pipe, temperature=2, top_k=0, top_p=1e-6).token_ids == greedy.token_ids
    assert ask(pipe, temperature=2, top_k=0, min_p=1.0).token_ids == greedy.token_ids


def test_log_probabilities(greedy: Response) -> None:
    assert greedy.logprobs is not None
    with_text = [t for t in greedy.token_ids if t != 2]  # the end token has no text
    assert [p.token for p in greedy.logprobs] == with_text
    for values in greedy.logprobs:
        assert (values.rank, len(values.top)) == (1, 3)
        assert values.top[0] == (values.token, values.logprob)
        assert values.logprob < 0


def test_seeds_and_choices(pipe: Pipeline) -> None:
    config: dict[str, Any] = {"top_k": 0, "temperature": 1.5, "n": 3}
    one, same, other = (ask(pipe, random_seed=seed, **config) for seed in (1, 1, 2))
    assert one == same
    texts = [choice.text for response in (one, other) for choice in response.choices]
    assert len(set(texts)) == 6


def test_lengths_and_ends(pipe: Pipeline) -> None:
    short = pipe("Hi", GenerationConfig(max_new_tokens=100))
    assert short.finish_reason == "stop"
    end = short.token_ids[-1]
    going_on = pipe("Hi", GenerationConfig(max_new_tokens=short.generate_token_len + 6, ignore_eos=True))
    assert going_on.finish_reason == "length"
    assert going_on.token_ids[: short.generate_token_len] == short.token_ids
    assert "<|im_end|>" not in going_on.text
    shown = pipe(
        "Hi",
        GenerationConfig(
            max_new_tokens=short.generate_token_len + 6, ignore_eos=True, skip_special_tokens=False
        ),
    )
    assert shown.token_ids == going_on.token_ids
    assert shown.text.startswith(short.text + "<|im_end|>")
    longer = pipe("Hi", GenerationConfig(min_new_tokens=short.generate_token_len + 3, max_new_tokens=60))
    assert longer.generate_token_len >= short.generate_token_len + 3
    assert end not in longer.token_ids[: short.generate_token_len + 2]


def test_stops(pipe: Pipeline, greedy: Response) -> None:
    word = greedy.text[8:12]
    stopped = ask(pipe, stop_words=[word])
    assert (stopped.text, stopped.finish_reason) == (greedy.text[: greedy.text.index(word)], "stop")
    token = greedy.token_ids[5]
    stopped = ask(pipe, stop_token_ids=[token])
    assert stopped.token_ids == greedy.token_ids[: greedy.token_ids.index(token) + 1]
    assert stopped.finish_reason == "stop"


def test_bad_words_and_bias(pipe: Pipeline, greedy: Response) -> None:
    word = next(w for w in pipe("Hi").text.split() if w.isalpha() and len(w) > 2)
    assert word not in pipe("Hi", GenerationConfig(bad_words=[word])).text.split()
    token = greedy.token_ids[0]
    assert token not in ask(pipe, logit_bias={token: -100}).token_ids
    assert set(ask(pipe, logit_bias={token: 100}, max_new_tokens=4).token_ids) == {token}


def test_penalties(pipe: Pipeline) -> None:
    def repeats(**fields: Any) -> int:
        ids = ask(pipe, ignore_eos=True, max_new_tokens=60, **fields).token_ids
        return len(ids) - len(set(ids))

    plain = repeats()
    assert plain > 20
    for fields in ({"repetition_penalty": 1.8}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
        assert repeats(**fields) < plain


def test_a_second_turn_computes_only_its_new_tokens_and_answers_as_ever(pipe: Pipeline) -> None:
    first = pipe.chat("What is the capital of France?")
    second = pipe.chat("And of Italy?", first.session)
    session = second.session
    assert session is not None
    assert second.cached_tokens == first.input_token_len + first.generate_token_len - 1
    whole = pipe(session.messages[:3])
    assert (whole.input_token_len, whole.text) == (second.input_token_len, second.text)
