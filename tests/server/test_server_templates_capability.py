"""What `chat.capability` and a template's stop words mean over HTTP: fronts of their own, on the stand-in engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_harness import REPLY, Front, Script, StandInEngine, make_spec, run_front
from tokenizers import AddedToken, Tokenizer

from deploykit.engine.types import unpack

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "Hello"}]
FIM = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
MINE = """
from deploykit import register_template

@register_template("mine")
class Mine:
    stop_words = ["<|im_start|>", "cats"]
    def get_prompt(self, prompt, sequence_start=True):
        return f"one {prompt} two"
    def messages2prompt(self, messages):
        return "three ".join(m["content"] for m in messages)
"""


@pytest.fixture(scope="module")
def fim_path(folder: Path, tokenizer_path: Path) -> Path:
    """The tokenizer with Code Llama's tokens for gaps."""
    inner = Tokenizer.from_file(str(tokenizer_path))
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in FIM])
    path = folder / "fim.json"
    inner.save(str(path))
    return path


@pytest.fixture(scope="module")
def gap_engine(folder: Path, fim_path: Path) -> StandInEngine:
    engine = StandInEngine(folder / "gap.sock", Tokenizer.from_file(str(fim_path)))
    engine.start()
    return engine


@pytest.fixture(scope="module")
def infilling(folder: Path, fim_path: Path, gap_engine: StandInEngine) -> Iterator[Front]:
    spec = make_spec(
        fim_path,
        gap_engine.socket_path,
        capability="infilling",
        add_bos=True,
        template_stops=("<|im_start|>", "cats"),
    )
    with run_front(folder, spec) as front:
        yield front


@pytest.fixture
def gap(gap_engine: StandInEngine) -> StandInEngine:
    gap_engine.script = Script()
    gap_engine.submits.clear()
    return gap_engine


def prompt_of(engine: StandInEngine, index: int = -1) -> str:
    return engine.tokenizer.decode(
        unpack(engine.submits[index].token_ids).tolist(), skip_special_tokens=False
    )


def error_of(front: Front, path: str, body: dict[str, Any]) -> tuple[int, str | None, str | None, str]:
    response = front.post(path, body)
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"], error["message"]


def test_a_suffix_makes_a_gap(infilling: Front, gap: StandInEngine) -> None:
    answer = infilling.post(TEXT, {"prompt": "def f(", "suffix": "\n  return x", "max_tokens": 100}).json()
    assert answer["choices"][0]["text"] == REPLY
    assert prompt_of(gap) == "<|endoftext|>▁<PRE>def f(▁<SUF>\n  return x▁<MID>"
    assert gap.tokenizer.token_to_id("▁<EOT>") in gap.submits[-1].sampling.stop_token_ids


def test_every_prompt_of_a_list_and_a_stream(infilling: Front, gap: StandInEngine) -> None:
    body = {"prompt": ["a", "b"], "suffix": "c", "stream": True, "max_tokens": 3}
    assert infilling.post(TEXT, body).text.endswith("data: [DONE]\n\n")
    assert sorted(prompt_of(gap, i) for i in range(2)) == [
        f"<|endoftext|>▁<PRE>{text}▁<SUF>c▁<MID>" for text in "ab"
    ]


def test_a_marked_gap_and_none(infilling: Front, gap: StandInEngine) -> None:
    infilling.post(TEXT, {"prompt": "one <FILL> two"})
    assert prompt_of(gap) == "<|endoftext|>▁<PRE>one ▁<SUF> two▁<MID>"
    infilling.post(TEXT, {"prompt": "one two", "suffix": ""})
    assert prompt_of(gap) == "<|endoftext|>one two"
    assert not gap.submits[-1].sampling.stop_token_ids


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [1, 2], "suffix": "x"}, "suffix"),
        ({"prompt": "a<FILL>b", "suffix": "x"}, "suffix"),
        ({"prompt": "a<FILL>b<FILL>"}, "prompt"),
        ({"prompt": "a", "suffix": "x", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": 5}, "suffix"),
    ],
)
def test_gaps_that_are_refused(
    infilling: Front, gap: StandInEngine, body: dict[str, Any], param: str
) -> None:
    status, _, named, _ = error_of(infilling, TEXT, body)
    assert (status, named) == (400, param)
    assert not gap.submits


def test_a_suffix_elsewhere_names_the_capability(front: Front, engine: StandInEngine) -> None:
    status, code, param, message = error_of(front, TEXT, {"prompt": "a", "suffix": "x"})
    assert (status, code, param) == (400, "unsupported_parameter", "suffix")
    assert "chat.capability" in message
    front.post(TEXT, {"prompt": "a <FILL> b"})  # where gaps aren't filled it is text
    assert prompt_of(engine) == "a <FILL> b"


def test_stop_words_of_the_template_join_the_requests(infilling: Front, gap: StandInEngine) -> None:
    answer = infilling.post(CHAT, {"messages": USER}).json()["choices"][0]
    assert answer["message"]["content"] == REPLY.partition("cats")[0]
    assert answer["finish_reason"] == "stop"
    assert gap.submits[-1].sampling.stop_token_ids == (gap.tokenizer.token_to_id("<|im_start|>"),)
    answer = infilling.post(CHAT, {"messages": USER, "stop": "café", "stop_token_ids": [7]}).json()
    assert answer["choices"][0]["message"]["content"] == REPLY.partition("café")[0]
    assert gap.submits[-1].sampling.stop_token_ids == (7, gap.tokenizer.token_to_id("<|im_start|>"))
    plain = infilling.post(TEXT, {"prompt": "Hello", "max_tokens": 100}).json()
    assert plain["choices"][0]["text"] == REPLY  # a completion isn't a turn


def test_ignore_eos_ignores_the_templates_end_too(infilling: Front, gap: StandInEngine) -> None:
    answer = infilling.post(CHAT, {"messages": USER, "ignore_eos": True, "max_tokens": 100}).json()
    assert "cats" in answer["choices"][0]["message"]["content"]
    assert gap.submits[-1].sampling.stop_token_ids == ()


def test_plain_completion_alone(folder: Path, tokenizer_path: Path, engine: StandInEngine) -> None:
    spec = make_spec(
        tokenizer_path,
        engine.socket_path,
        chat_template=None,
        capability="completion",
        no_chat="chat.capability is completion",
    )
    with run_front(folder, spec) as front:
        status, code, param, message = error_of(front, CHAT, {"messages": USER})
        assert (status, code, param) == (400, "no_chat_template", "messages")
        assert "chat.capability is completion" in message
        assert "/v1/completions" in message
        assert front.post(TEXT, {"prompt": "Hello", "max_tokens": 100}).json()["choices"][0]["text"] == REPLY


def test_a_class_from_the_users_own_file(folder: Path, tokenizer_path: Path, engine: StandInEngine) -> None:
    file = folder / "mine.py"
    file.write_text(MINE)
    spec = make_spec(
        tokenizer_path,
        engine.socket_path,
        chat_template=None,
        template_python=str(file),
        template_name="mine",
    )
    with run_front(folder, spec) as front:
        answer = front.post(CHAT, {"messages": USER}).json()["choices"][0]["message"]["content"]
        assert answer == REPLY.partition("cats")[0]
        assert prompt_of(engine) == "one Hello two"
        front.post(CHAT, {"messages": [*USER, {"role": "assistant", "content": "a"}, *USER]})
        assert prompt_of(engine) == "Hellothree athree Hello"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"capability": "infilling"}, "can't fill in the middle"),
        ({"template_python": "/none.py", "template_name": "x"}, "no such file"),
    ],
)
def test_a_front_that_cant_serve_what_is_asked_says_so(
    folder: Path, tokenizer_path: Path, changes: dict[str, Any], says: str
) -> None:
    spec = make_spec(tokenizer_path, folder / "none.sock", **changes)
    with pytest.raises(AssertionError) as caught, run_front(folder, spec):  # it ends before it is ready
        pass
    assert says in str(caught.value)
