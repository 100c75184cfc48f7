"""Models of both hubs: pinned to a commit, whole or not there, used from the disk afterwards."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from hub_fakes import COMMIT, FILES, OLDER, FakeHub, Fault, MakeRef, names, published

from deploykit import __version__
from deploykit.errors import ConfigError, DeploykitError
from deploykit.hub import FetchProgress, HfRef, ModelScopeRef, PathRef, fetch, hold, locate, preview
from deploykit.hub import http as http_module
from deploykit.hub.cache import entries
from deploykit.hub.locks import release
from deploykit.hub.records import read_record
from deploykit.hub.verify import verify

WANTED = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]


def test_a_model_pinned_to_its_commit(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    seen: list[FetchProgress] = []
    got = fetch([ref()], cache=cache, report=seen.append)
    assert got.revision == COMMIT
    assert got.source in ("hf owner/name@main", "modelscope owner/name@master")
    assert names(got.path) == WANTED
    assert all((got.path / name).read_bytes() == FILES[name] for name in WANTED)
    assert not any(p.is_symlink() for p in got.path.iterdir())
    assert list((cache / "staging").iterdir()) == []
    total = sum(len(FILES[n]) for n in WANTED)
    assert {p.total for p in seen} == {total}
    done = [p.done for p in seen]
    assert (done, done[0], done[-1]) == (sorted(done), 0, total)
    bytes_asked = [r for r in hub.requests if "/resolve/" in r or "FilePath" in r]
    assert bytes_asked
    assert all(COMMIT in r for r in bytes_asked)
    unwanted = (".bin", ".py", "consolidated", "onnx", "README", "hidden")
    assert not any(name in r for r in bytes_asked for name in unwanted)
    record = read_record(cache, got.path)
    assert record is not None
    assert (record.source, record.revision) == (got.source, COMMIT)
    assert sorted(f.name for f in record.files) == WANTED
    assert all(f.sha256 and f.size == len(FILES[f.name]) for f in record.files)


def test_then_from_the_disk(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    first = fetch([ref()], cache=cache)
    asked = len(hub.seen)
    assert fetch([ref()], cache=cache) == first
    assert fetch([ref()], cache=cache, offline=True) == first
    assert locate([ref(revision=COMMIT)], cache=cache).path == first.path  # type: ignore[union-attr]
    assert locate([ref(revision="other")], cache=cache) is None
    assert locate([ref(revision="f" * 40)], cache=cache) is None
    assert len(hub.seen) == asked


def test_a_commit_is_asked_for_by_name(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    assert fetch([ref(revision=COMMIT)], cache=cache).revision == COMMIT
    assert not any("main" in r or "master" in r for r in hub.requests)


def test_one_gguf_file(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.files = {"m-Q8_0.gguf": os.urandom(100_000), "m-Q4_0.gguf": b"x"}
    got = fetch([ref(file="m-Q8_0.gguf")], cache=cache)
    assert got.path.read_bytes() == hub.files["m-Q8_0.gguf"]
    assert got.path.name == "m-Q8_0.gguf"
    assert hub.asked_for("m-Q4_0.gguf") == []
    assert locate([ref()], cache=cache) is None  # one file isn't the model
    with pytest.raises(DeploykitError) as e:
        fetch([ref(file="m-Q5_0.gguf")], cache=cache)
    assert "m-Q8_0.gguf" in str(e.value)


def test_files_of_one_name_in_two_folders(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.files = {"a/m.gguf": b"first", "b/m.gguf": b"second"}
    for name, content in hub.files.items():
        assert fetch([ref(file=name)], cache=cache).path.read_bytes() == content


def test_names_that_are_as_long_as_they_may_be(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.repo = f"{'o' * 96}/{'n' * 96}"
    name = "f" * 200 + ".gguf"
    hub.files = {**FILES, name: b"GGUF"}
    for wanted in (ref(hub.repo, file=name), ref(hub.repo)):
        path = fetch([wanted], cache=cache).path
        assert hold(path, cache)
        release(path, cache)
        assert read_record(cache, path) is not None


def test_repositories_without_safetensors(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    with pytest.raises(DeploykitError, match="pickles") as pickles:
        fetch([ref()], cache=cache)
    assert "--allow-bin" in str(pickles.value.fix)
    assert "deploykit convert" in str(pickles.value.fix)
    hub.files = {"a.gguf": b"x"}
    with pytest.raises(DeploykitError) as e:
        fetch([ref()], cache=cache)
    assert "a.gguf" in str(e.value.fix)
    hub.files = {"README.md": b"x"}
    with pytest.raises(DeploykitError, match="no model weights"):
        fetch([ref()], cache=cache)
    assert not any("/resolve/" in r or "FilePath" in r for r in hub.requests)


def test_pickles_are_fetched_when_they_are_asked_for_and_never_served(
    hub: FakeHub, cache: Path, ref: MakeRef
) -> None:
    got = fetch([ref(allow_bin=True)], cache=cache)
    assert names(got.path) == sorted([*WANTED, "pytorch_model.bin"])  # training_args.bin holds no weights
    assert locate([ref()], cache=cache) is None
    assert locate([ref(allow_bin=True)], cache=cache) == got


def test_a_preview_writes_nothing(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    seen = preview([ref()], cache=cache)
    assert seen.resolved is not None
    assert seen.resolved.revision == COMMIT
    assert sorted(f.name for f in seen.resolved.files) == WANTED
    assert not cache.exists()
    fetch([ref()], cache=cache)
    again = preview([ref()], cache=cache)
    assert again.found is not None
    assert again.resolved is None


def test_an_interrupt_shows_nothing_and_goes_on_later(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.always["model.safetensors"] = Fault(delay=0.01)

    def interrupt(progress: FetchProgress) -> None:
        staged = list((cache / "staging").rglob("model.safetensors.partial"))
        if staged and staged[0].stat().st_size >= 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([ref()], cache=cache, report=interrupt)
    assert locate([ref()], cache=cache) is None
    assert published(cache) == []
    have = next((cache / "staging").rglob("model.safetensors.partial")).stat().st_size
    small = preview([ref()], cache=cache)
    assert small.present >= have
    hub.seen.clear()
    hub.always.clear()
    assert names(fetch([ref()], cache=cache).path) == WANTED
    ranges = [r.headers["range"] for r in hub.asked_for("model.safetensors")]
    assert min(int(r.removeprefix("bytes=").partition("-")[0]) for r in ranges) == have
    assert hub.asked_for("config.json") == []  # what had arrived whole isn't asked for again


def test_a_damaged_beginning_is_fetched_anew(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    """What an earlier try left may have been damaged since: one more try from the first byte, not an error."""
    stage = cache / "staging" / f"{'hf' if isinstance(ref(), HfRef) else 'modelscope'}-owner--name-{COMMIT}"
    stage.mkdir(parents=True)
    (stage / "model.safetensors.partial").write_bytes(bytes(1000))
    (stage / "config.json").write_bytes(bytes(len(FILES["config.json"])))
    (stage / "tokenizer.json.partial").write_bytes(bytes(100))  # longer than the file
    (stage / "stray.py").write_bytes(b"raise SystemExit")
    got = fetch([ref()], cache=cache)
    assert names(got.path) == WANTED
    assert all((got.path / name).read_bytes() == FILES[name] for name in WANTED)


def test_disk_space_is_asked_for_before_a_download(
    hub: FakeHub, cache: Path, ref: MakeRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.hub.disk.free_bytes", lambda path: 1000)
    with pytest.raises(DeploykitError) as e:
        fetch([ref()], cache=cache)
    text = str(e.value)
    assert "not enough disk space" in text
    assert "3.0 GiB" not in text
    assert "3 MiB are needed" in text
    assert "1000 bytes are free" in text
    assert str(cache) in text
    assert e.value.exit_code == 3
    assert not any("/resolve/" in r or "FilePath" in r for r in hub.requests)


def test_errors_say_what_to_do(hub: FakeHub, cache: Path) -> None:
    with pytest.raises(DeploykitError, match="no such repository") as e:
        fetch([HfRef("owner/missing")], cache=cache)
    assert "HF_TOKEN" in str(e.value)
    with pytest.raises(DeploykitError, match="not found") as e:
        fetch([ModelScopeRef("owner/missing")], cache=cache)
    assert "MODELSCOPE_API_TOKEN" in str(e.value)
    for ref in (HfRef("owner/name", "v9"), ModelScopeRef("owner/name", "v9")):
        with pytest.raises(DeploykitError, match="no revision v9"):
            fetch([ref], cache=cache)


def test_no_network_at_all(cache: Path, ref: MakeRef, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{probe.getsockname()[1]}")  # nobody listens
        with pytest.raises(DeploykitError, match="couldn't be reached") as e:
            fetch([ref()], cache=cache)
    assert "_ENDPOINT names a mirror" in str(e.value)


def test_a_hub_that_never_answers_is_given_up(
    cache: Path, ref: MakeRef, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One time limit, no second try: the next source gets its turn."""
    monkeypatch.setattr(http_module, "API_READ_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        got = fetch([ref(), PathRef(cache.parent)], cache=cache, report=None)
        assert got.path == cache.parent
        with pytest.raises(DeploykitError, match="couldn't be reached"):
            fetch([ref()], cache=cache)
        silent.accept()[0].close()
        silent.settimeout(0.1)
        with pytest.raises(TimeoutError):  # it was asked once
            silent.accept()


def test_modelscopes_branch_is_pinned_by_its_last_commit(hub: FakeHub, cache: Path) -> None:
    """Its listing names the commit that changed each file; the newest one must show the same files."""
    assert fetch([ModelScopeRef("owner/name")], cache=cache).revision == COMMIT
    asked = [r for r in hub.requests if "repo/files" in r]
    assert len(asked) == 2
    assert "Revision=master" in asked[0]
    assert f"Revision={COMMIT}" in asked[1]


def test_a_modelscope_branch_that_cannot_be_pinned(hub: FakeHub, cache: Path) -> None:
    hub.head_dates = False  # the listing names another commit only, where there is nothing
    with pytest.raises(DeploykitError) as e:
        fetch([ModelScopeRef("owner/name")], cache=cache)
    assert OLDER not in str(e.value)
    assert "commit" in str(e.value)
    assert published(cache) == []


def test_modelscope_needs_no_home_and_writes_nothing_there(
    hub: FakeHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK keeps an id of the installation and a pickled login in the home: neither is made nor read."""
    home = tmp_path / "home"
    (home / ".modelscope" / "credentials").mkdir(parents=True)
    (home / ".modelscope" / "credentials" / "cookies").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    before = names(home)
    fetch([ModelScopeRef("owner/name")], cache=cache)
    assert names(home) == before
    assert {r.headers["user-agent"] for r in hub.seen} == {f"deploykit/{__version__}"}
    assert all("authorization" not in r.headers and "cookie" not in r.headers for r in hub.seen)


def test_huggingface_hub_asks_for_nothing_by_itself(hub: FakeHub, cache: Path) -> None:
    fetch([HfRef("owner/name")], cache=cache)
    assert all("/api/models/owner/name/" in r or "/resolve/" in r for r in hub.requests)
    assert {r.headers["user-agent"] for r in hub.seen} == {f"deploykit/{__version__}"}


def test_threads_want_the_same_model(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.always["model.safetensors"] = Fault(delay=0.02)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(fetch([ref()], cache=cache))) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 3
    assert len({r.path for r in results}) == 1  # type: ignore[attr-defined]
    assert len(hub.asked_for("config.json")) == 1


@pytest.mark.parametrize("kind", [HfRef, ModelScopeRef])
@pytest.mark.parametrize(
    ("repo", "revision", "file"),
    [
        ("name", "main", None),
        ("a/b/c", "main", None),
        ("../b", "main", None),
        ("a/..", "main", None),
        ("a/b", "../x", None),
        ("a/b", "", None),
        ("a/b", "-x", None),
        ("a/b", "main", "../x.gguf"),
        ("a/b", "main", "/x.gguf"),
        ("a/b", "main", "pytorch_model.bin"),
        ("a/b", "main", "*.gguf"),
    ],
)
def test_refs_are_checked(
    kind: type[HfRef | ModelScopeRef], repo: str, revision: str, file: str | None
) -> None:
    with pytest.raises(ConfigError):
        kind(repo, revision, file)


def test_named_templates_come_with_the_model(hub: FakeHub, ref: MakeRef, cache: Path) -> None:
    inside = "additional_chat_templates"
    taken = {f"{inside}/tool_use.jinja": b"tools", f"{inside}/rag.jinja": b"documents"}
    left = (
        f"{inside}/deep/er.jinja",
        f"{inside}/run.py",
        f"{inside}/.hidden.jinja",
        f"{inside}/../out.jinja",
    )
    hub.files = {**FILES, **taken, **dict.fromkeys(left, b"no")}
    hub.faults["model.safetensors"] = [Fault(status=404)]  # a first try that leaves its beginning
    with pytest.raises(DeploykitError):
        fetch([ref()], cache=cache)
    (stage,) = (cache / "staging").iterdir()
    (stage / inside / "stray.jinja").write_bytes(b"from another try")
    (stage / "strays").mkdir()
    got = fetch([ref()], cache=cache)
    assert {n for n in names(got.path) if "/" in n} == set(taken)
    assert (got.path / inside / "rag.jinja").read_bytes() == b"documents"
    (entry,) = [e for e in entries(cache) if e.kind != "partial"]
    assert verify(entry, cache, lambda _: None).ok
