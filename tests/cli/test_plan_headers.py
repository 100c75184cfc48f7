"""`deploykit plan` and `up` of a model that isn't on the disk: headers first, weights only for what fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fakes import COMMIT, NEWER, FakeHub, Fault, serve

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.describe import describe, to_json
from deploykit.cli.app import main
from deploykit.hub import HfRef, fetch

sys.path.insert(0, str(Path(__file__).parent.parent / "hub"))
import small_models

ROOM = ["--machine", "laptop", "--set", "engine.cache.blocks=16"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "DEPLOYKIT_OFFLINE", "DEPLOYKIT_USE_MODELSCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    with serve(FakeHub(small_models.sharded())) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.endpoint)
        yield running


def weights_served(hub: FakeHub) -> int:
    return sum(n for name, n in hub.served.items() if name.endswith(".safetensors"))


def recipe(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(f"version: 1\n{text}")
    return str(path)


def test_a_plan_reads_headers_and_says_so(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "owner/name", *ROOM]) == 0
    out, err = capsys.readouterr()
    assert f"facts: headers of hf owner/name@main, commit {COMMIT[:12]}" in out
    assert "(not fetched)" in out
    assert "the checkpoint's own, from chat_template.jinja" in out
    assert "headers: ok" in err
    assert weights_served(hub) < 10_000
    asked = len(hub.seen)
    assert main(["plan", "owner/name", *ROOM, "--json", "--offline"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["model"]["origin"] == "hub"
    assert data["model"]["facts_from"].startswith("headers of hf owner/name@main")
    assert len(hub.seen) == asked
    assert main(["plan", "owner/name", *ROOM, "--json", "--fetch"]) == 0
    fetched = json.loads(capsys.readouterr().out)
    assert fetched["model"]["origin"] == "files"
    assert fetched["plan"] == data["plan"]  # the same to the byte, and to the path
    assert fetched["template"]["reason"] == data["template"]["reason"]


def test_named_templates_come_with_the_model(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.files = small_models.sharded()
    assert main(["plan", "owner/name", *ROOM, "--set", "chat.template=auto:tool_use"]) == 0
    assert "the one called tool_use" in capsys.readouterr().out
    assert main(["plan", "owner/name", *ROOM, "--set", "chat.template=auto:tool_use", "--fetch"]) == 0
    assert "the one called tool_use" in capsys.readouterr().out


def test_a_branch_that_has_moved_is_seen_by_the_next_hours_plan(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `up` would fetch it; a commit stays what it is, and so does the branch where nobody can be asked."""

    def planned(*more: str) -> tuple[str, list[str], int]:
        before = len(hub.seen)
        assert main(["plan", "owner/name", *ROOM, "--json", *more]) == 0
        model = json.loads(capsys.readouterr().out)["model"]
        return model["facts_from"].rpartition(" ")[2], model["failures"], len(hub.seen) - before

    def later(hours: float) -> None:
        for ref in (tmp_path / "cache" / "headers" / "refs").iterdir():
            then = ref.stat().st_mtime - 3600 * hours
            os.utime(ref, (then, then))

    assert planned()[0] == COMMIT[:12]
    hub.move(small_models.sharded())
    assert planned() == (COMMIT[:12], [], 0)
    later(3)
    assert planned("--offline") == (COMMIT[:12], [], 0)
    hub.always["api"] = Fault(status=404)
    commit, (note,), _ = planned()
    assert commit == COMMIT[:12]
    assert "it answered 404" in note
    assert note.endswith("hf owner/name@main is taken as it stood 3 hours ago")
    del hub.always["api"]
    assert planned()[:2] == (NEWER[:12], [])
    assert planned() == (NEWER[:12], [], 0)
    assert main(["plan", recipe(tmp_path, f"model: {{id: owner/name, revision: {COMMIT}}}\n"), *ROOM]) == 0
    assert f"commit {COMMIT[:12]}" in capsys.readouterr().out
    assert weights_served(hub) < 20_000


def test_a_hub_without_ranges_costs_no_weights(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    for name in hub.files:
        hub.always[name] = Fault(ignore_range=True)
    assert main(["plan", "owner/name", *ROOM]) == 1
    err = capsys.readouterr().err
    assert "can't be read by itself" in err
    assert "--fetch" in err


def test_a_description_stands_in(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = fetch([HfRef("owner/name")], cache=tmp_path / "other").path
    (tmp_path / "facts.json").write_text(to_json(describe(read_facts(whole), "owner/name")))
    asked = len(hub.seen)
    target = recipe(tmp_path, "model: {id: owner/name, facts: facts.json}\n")
    assert main(["plan", target, *ROOM, "--offline"]) == 0
    out = capsys.readouterr().out
    assert "facts: the recipe's description" in out
    assert "isn't on this machine: --offline was given" in out
    assert len(hub.seen) == asked
    assert main(["plan", target, *ROOM, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["origin"] == "hub"
    hub.always["api"] = Fault(status=404)
    other = recipe(tmp_path, "model: {id: another/name, facts: facts.json}\n")
    assert main(["plan", other, *ROOM, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["model"]["origin"] == "described"
    assert "no such repository" in data["model"]["failures"][0]


def test_headers_are_listed_removed_and_pruned(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    def cached(*args: str) -> dict[str, list[dict[str, object]]]:
        capsys.readouterr()
        assert main(["cache", *args, "--json"]) == 0
        found: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
        return found

    assert main(["plan", "owner/name", *ROOM]) == 0
    (row,) = cached("ls")["entries"]
    assert (row["kind"], row["name"], row["revision"]) == ("headers", "owner/name", COMMIT)
    assert isinstance(row["bytes"], int)
    assert 0 < row["bytes"] < 20_000
    cached("rm", "owner/name", "--yes")
    assert cached("ls")["entries"] == []
    assert main(["plan", "owner/name", *ROOM, "--offline"]) == 1
    assert main(["plan", "owner/name", *ROOM]) == 0
    cached("prune", "--older-than", "0s")
    assert [e["kind"] for e in cached("ls")["entries"]] == [
        "headers"
    ]  # still the only thing that is known of it
    assert main(["plan", "owner/name", *ROOM, "--fetch"]) == 0
    cached("prune", "--older-than", "0s")
    assert [e["kind"] for e in cached("ls")["entries"]] == ["hf"]


@pytest.mark.parametrize("command", ["plan", "up"])
def test_what_does_not_fit_is_refused_before_its_weights_are_fetched(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    args = ["--set", "engine.device=cpu", "--set", "engine.cache.blocks=1000000000"]
    args += ["--set", "server.port=0"] if command == "up" else []
    assert main([command, "owner/name", *args]) == 3
    _, err = capsys.readouterr()
    assert "error:" in err
    assert 0 < weights_served(hub) < 10_000
    assert not list((Path(os.environ["DEPLOYKIT_CACHE"])).glob("hf/*/model"))


def test_a_start_goes_on_where_a_hub_knows_no_ranges(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.always["model-00001-of-00002.safetensors"] = Fault(ignore_range=True)
    args = ["--set", "engine.device=cpu", "--set", "engine.cache.blocks=1000000000", "--set", "server.port=0"]
    assert main(["up", "owner/name", *args]) == 3  # it is refused all the same, from its files
    out = capsys.readouterr().out
    assert (
        "the plan follows the download: the header of model-00001-of-00002.safetensors can't be read" in out
    )
    assert "weights: ok" in out


def test_a_hub_that_is_away_is_asked_once(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["up", "owner/name", "--set", "server.port=0"]) == 1
    out, err = capsys.readouterr()
    assert "the hub couldn't be reached" in err
    assert "headers: failed" in out
    assert "weights" not in out


def test_no_heavy_library_and_no_connection(hub: FakeHub, tmp_path: Path) -> None:
    code = (
        "import sys\nseen = []\n"
        "def watch(event, args):\n    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        seen.append(event)\n"
        "sys.addaudithook(watch)\nfrom deploykit.cli.app import main\n"
        "code = main(['plan', 'owner/name', '--set', 'engine.device=cpu', *sys.argv[1:]])\n"
        "print('code', code, sorted({'torch', 'transformers', 'modelscope'} & set(sys.modules)), sorted(set(seen)))"
    )

    def run(*args: str) -> str:
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    assert run("--offline") == "code 1 [] []"
    assert run().startswith("code 0 [] [")
    assert run() == run("--offline") == "code 0 [] []"
