"""Where a setting comes from: the call, the pipe, the recipe, the checkpoint, the default."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploykit import (
    ChatTemplateConfig,
    EngineConfig,
    GenerationConfig,
    GenerationError,
    Session,
    pipeline,
    register_template,
)
from deploykit.errors import DeploykitError

pytestmark = pytest.mark.usefixtures("fake_runner")


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = {"max_new_tokens": 6, "temperature": 0.5, "top_k": 20, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(config))
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nmodel: {path: model}\nchat: {system: Be kind., defaults: {top_k: 5}}\n")
    return path


def test_of_sampling(recipe: Path) -> None:
    with pipeline(recipe, generation_config=GenerationConfig(n=2, min_p=0.1)) as pipe:
        job = pipe._prompter.job("Hi", pipe._resolve(GenerationConfig(max_new_tokens=4, temperature=0.3)))
        assert (job.n, job.sampling.max_tokens, job.sampling.temperature) == (2, 4, 0.3)  # pipe, call, call
        assert (job.sampling.top_k, job.sampling.min_p) == (5, 0.1)  # recipe, pipe
        assert (job.sampling.top_p, job.sampling.repetition_penalty) == (1.0, 1.0)  # default
        assert [choice.generate_token_len for choice in pipe("Hi").choices] == [6, 6]  # checkpoint
        greedy = pipe._prompter.job("Hi", pipe._resolve(GenerationConfig(top_k=1)))
        assert greedy.sampling.temperature == 0
        assert pipe("Hi").input_token_len == len("system: Be kind.\nuser: Hi\nassistant:")


def test_of_the_template_and_the_engine(recipe: Path) -> None:
    fields = ChatTemplateConfig(
        user="Q: ", eoh="\n", assistant='A:"', eoa='"\n', meta_instruction="", stop_words=("Q:",)
    )
    engine = EngineConfig(session_len=64, max_batch_size=3, cache_blocks=12, cache_block_len=16)
    with pipeline(recipe, chat_template_config=fields, engine_config=engine, sets=["chat.system=''"]) as pipe:
        ready = pipe._core.ready
        assert (ready.session_len, ready.max_rows, ready.num_blocks, ready.block_len) == (64, 3, 12, 16)
        rendered = pipe._prompter.render([{"role": "user", "content": "Hi"}], GenerationConfig())
        assert "".join(piece.text for piece in rendered.pieces).endswith('Q: Hi\nA:"')
        assert pipe._prompter.job_of(rendered, [1]).stops == ("Q:",)


def test_what_the_machine_can_not_serve_is_refused_with_reasons(recipe: Path) -> None:
    with pytest.raises(DeploykitError) as caught:
        pipeline(recipe, engine_config=EngineConfig(tp=4))
    assert "tp" in str(caught.value)
    with pytest.raises(DeploykitError, match=r"no_such\.yaml"):
        pipeline(recipe.parent / "no_such.yaml")


def test_a_model_for_completion_takes_texts_as_they_are(recipe: Path) -> None:
    with pipeline(recipe, chat_template_config=ChatTemplateConfig(capability="completion")) as pipe:
        assert pipe("abc").input_token_len == 3
        with pytest.raises(GenerationError, match="not served for chat") as caught:
            pipe([{"role": "user", "content": "abc"}])
        assert caught.value.code == "no_chat_template"
        with pytest.raises(GenerationError):
            pipe.chat("abc")


def test_a_registered_template_is_used_as_it_is_in_this_process(recipe: Path) -> None:
    @register_template("of-this-test")
    class Template:
        stop_words = ("#",)

        def get_prompt(self, prompt: str, sequence_start: bool = True) -> str:
            return f"({prompt})"

        def messages2prompt(self, messages: list[dict[str, str]], sequence_start: bool = True) -> str:
            return "".join(f"({m['content']})" if m["role"] == "user" else m["content"] for m in messages)

    with pipeline(
        recipe, chat_template_config=ChatTemplateConfig(model_name="of-this-test"), sets=["chat.system=''"]
    ) as pipe:
        session = Session()
        assert pipe.chat("abc", session, GenerationConfig(max_new_tokens=1)).input_token_len >= 5
        second = pipe.chat("d", session)
        assert second.cached_tokens > 0
