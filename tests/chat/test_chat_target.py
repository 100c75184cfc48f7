"""Where a target leads: to what runs, or to a private deployment of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploykit.chat.run import api_key, endpoint
from deploykit.chat.target import Attach, Start, choose, recipe_target
from deploykit.errors import ConfigError
from deploykit.supervise.state import StateFile


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A current folder with recipes, which are the shipped ones."""
    (tmp_path / "recipes").mkdir()
    for name in ("smollm2-135m", "other"):
        (tmp_path / "recipes" / f"{name}.yaml").write_text("version: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploykit.shipped.folder", lambda: tmp_path / "recipes")
    return tmp_path


def _running(name, target="x", status="ready", private=False, url="http://127.0.0.1:4242"):
    """A record that counts as live, for this process holds it."""
    record = StateFile(name, url=url, target=str(target), private=private)
    record.update(status=status)
    return record


def test_without_a_target_it_is_what_runs_else_the_default_recipe(checkout):
    assert choose(None) == Start(
        str(checkout / "recipes/smollm2-135m.yaml"),
        "a private deployment of the default recipe smollm2-135m",
    )
    _running("mine", private=True)  # somebody's private one is nobody else's
    assert isinstance(choose(None), Start)
    _running("one")
    where = choose(None)
    assert isinstance(where, Attach)
    assert (where.base, where.deployment) == ("http://127.0.0.1:4242/v1", "one")
    _running("two")
    with pytest.raises(ConfigError, match="2 deployments are running: one, two"):
        choose(None)
    assert choose("two").deployment == "two"


def test_a_recipe_that_runs_is_attached_to(checkout):
    recipe = checkout / "recipes" / "other.yaml"
    assert choose("recipes/other.yaml") == Start(
        str(recipe.resolve()), "a private deployment of recipes/other.yaml"
    )
    assert choose("other").target == str(recipe.resolve())
    _running("svc", recipe.resolve())
    for spelling in ("recipes/other.yaml", str(recipe), "other"):
        assert choose(spelling).deployment == "svc"
    _running("svc", recipe.resolve(), status="draining")
    assert isinstance(choose("recipes/other.yaml"), Start)


def test_urls_hub_ids_and_nothing(checkout):
    assert choose("http://10.0.0.1:8000") == Attach(
        "http://10.0.0.1:8000/v1", "the server at http://10.0.0.1:8000"
    )
    assert choose("Qwen/Qwen3-0.6B") == Start("Qwen/Qwen3-0.6B", "a private deployment of Qwen/Qwen3-0.6B")
    _running("qwen", "Qwen/Qwen3-0.6B")
    assert choose("Qwen/Qwen3-0.6B").deployment == "qwen"
    with pytest.raises(ConfigError) as caught:
        choose("qwn")
    assert caught.value.fix == "did you mean `qwen`?"
    with pytest.raises(ConfigError) as caught:
        choose("zzzz")
    assert "-p TEXT" in caught.value.fix
    with pytest.raises(ConfigError):
        choose("recipes/missing.yaml")


def test_what_up_is_given(checkout):
    assert Path(recipe_target(None)).name == "smollm2-135m.yaml"
    assert recipe_target("other") == "other"
    assert recipe_target("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def test_settings_of_a_recipe_do_not_go_to_what_runs_already(stub):
    _running("one", url=stub.url)
    said = []
    with endpoint("one", say=said.append, report=lambda stage: None) as client:
        assert client.models() == ["stub-model", "other"]
    assert said == [f"attached to the running deployment one at {stub.url}"]
    with (
        pytest.raises(ConfigError, match="before it starts"),
        endpoint("one", say=said.append, report=lambda stage: None, recipe_sets=["engine.threads=1"]),
    ):
        pass


@pytest.mark.parametrize("key", ["ké", "a\nb"])
def test_a_key_that_no_header_takes_is_refused(monkeypatch, key):
    monkeypatch.setenv("DEPLOYKIT_API_KEY", key)
    with pytest.raises(ConfigError, match="DEPLOYKIT_API_KEY"):
        api_key()
