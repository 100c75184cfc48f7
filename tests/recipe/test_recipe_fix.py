"""`validate --fix`: renames what is only a matter of a name, and leaves every other byte alone."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from deploykit.cli.app import main
from deploykit.errors import DeploykitError
from deploykit.recipe.fix import Fixed, fix_bytes, fix_file
from deploykit.recipe.loader import parse

HEAD = "version: 1\nmodel: {id: a/b}\n"


def fixed(text: str) -> str:
    return fix_bytes(text.encode())[0].decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("engine:\n  sesion_len: 4096\n", "engine:\n  session_len: 4096\n"),
        ("engine:\n  session-len: 4096\n", "engine:\n  session_len: 4096\n"),
        ("engine: {maxBatchSize: 2}\n", "engine: {max_batch_size: 2}\n"),
        ("engine:\n  max_model_len: 4096\n", "engine:\n  session_len: 4096\n"),
        ("engine:\n  max-model-len: 4096\n", "engine:\n  session_len: 4096\n"),
        ("engine:\n  cache:\n    cache_max_entry_count: 0.5\n", "engine:\n  cache:\n    ratio: 0.5\n"),
        ("engine:\n  sesion_len: 4096 # sesion_len\n", "engine:\n  session_len: 4096 # sesion_len\n"),
        ("engine: {\"sesion_len\": 1, 'tpp': 1}\n", "engine: {\"session_len\": 1, 'tp': 1}\n"),
        ("engin:\n  cahce: {blok_len: 64}\n", "engine:\n  cache: {block_len: 64}\n"),
        ("engine:\r\n  sesion_len: 1\r\n", "engine:\r\n  session_len: 1\r\n"),
        # a value that was wrong already is told of, and the key's name is right all the same
        ("engine:\n  sesion_len: many\n", "engine:\n  session_len: many\n"),
        ("chat: {defaults: {max_new_tokens: 9}}\n", "chat: {defaults: {max_tokens: 9}}\n"),
        ("model_a: &m {tpp: 1}\n" "engine: *m\n", "model_a: &m {tp: 1}\n" "engine: *m\n"),
    ],
)  # fmt: skip
def test_names_are_put_right_and_nothing_else(before: str, after: str) -> None:
    assert fixed(HEAD + before) == HEAD + after


@pytest.mark.parametrize(
    "text",
    [
        "engine:\n  sesion_len: 1\n  session_len: 2\n",  # would stand twice
        "engine:\n  sesion_len: 1\n  max_model_len: 2\n  session_len: 3\n",
        "engin: {tp: 1}\nengin: {tp: 2}\n",  # which of the two?
        "engine:\n  max_num_seqs: 1\n  max_batch_size: 2\n",
        "engine:\n  max_model_len: -1\n",  # -1 is `auto` there, and nothing here
        "engine:\n  gpu_memory_utilization: 0.9\n",  # another meaning
        "engine:\n  ratio: 0.9\n",  # belongs elsewhere
        "num_ctx: 4096\n",  # belongs elsewhere
        "engine:\n  kv_cache_dtype: fp8\n",  # elsewhere, and other values
        "engine:\n  max_num_seqs: 9\n  max_prefill_tokens: 8\n",  # would contradict another key
        "engine: {zzz: 1}\n",
        "chat: {defaults: {topp: 1}}\n",  # like two
        "engine:\n  backend: turbomind\n",  # a value
        'engine: {"sesion\\x5flen": 1}\n',  # an escape: not the key's own letters
        "engine: {sesion_len: 1\n",  # not YAML
    ],
)
def test_what_needs_a_decision_is_left(text: str) -> None:
    assert fixed(HEAD + text) == HEAD + text


def test_what_is_refused_keeps_nothing_else_back() -> None:
    text = HEAD + "engine: {tp: 1, tpp: 1, sesion_len: 1, cahce: {}}\n"
    assert fixed(text) == text.replace("sesion_len", "session_len").replace("cahce", "cache")


def test_two_names_for_one_key_are_renamed_once() -> None:
    text = fixed(HEAD + "engine:\n  sesion_len: 1\n  max_model_len: 2\n")
    assert sorted(parse(text, "x").data["engine"]) in (
        ["max_model_len", "session_len"],
        ["sesion_len", "session_len"],
    )


def test_a_byte_order_mark_and_lines_of_all_kinds_stay() -> None:
    head = b"\xef\xbb\xbfversion: 1\r\nmodel: {id: a/b}\ndescription: caf\xc3\xa9 \xe2\x80\xa8\n"
    raw = head + b"engine: {\xe2\x80\x9dx: 1, tpp: 1}\n"
    after, renames = fix_bytes(raw)
    assert after == raw.replace(b"tpp", b"tp")
    assert [r.new for r in renames] == ["tp"]


def test_the_file_is_replaced_with_its_mode_and_a_link_stays_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    file.write_text(HEAD + "engine:\n  # how long\n  sesion_len: 4096\n")
    file.chmod(0o640)
    link.symlink_to(file)
    assert main(["validate", "--fix", str(link)]) == 0
    assert file.read_text() == HEAD + "engine:\n  # how long\n  session_len: 4096\n"
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    out = capsys.readouterr().out
    assert "-  sesion_len: 4096\n+  session_len: 4096\n" in out
    assert f"renamed 1 key in {link}" in out
    assert out.endswith(f"ok {link} (link)\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.yaml", "real.yaml"]  # nothing is left over


def test_a_second_time_there_is_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + "engine: {tpp: 1, gpu_memory_utilization: 0.9}\n")
    assert main(["validate", "--fix", str(file)]) == 2
    assert "renamed 1 key" in capsys.readouterr().out
    before = file.stat()
    assert main(["validate", "--fix", str(file)]) == 2
    assert "renamed" not in capsys.readouterr().out
    assert file.stat() == before


def test_a_file_that_was_changed_meanwhile_is_left(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + "engine: {tpp: 1}\n")
    found = fix_file(file)
    assert isinstance(found, Fixed)
    file.write_text(HEAD)
    with pytest.raises(DeploykitError, match="changed meanwhile"):
        found.write()
    assert file.read_text() == HEAD


def test_a_diff_shows_no_credential(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + "server: {prt: 1, api_keys: [sk-secret]}  # \x85\n")
    found = fix_file(file)
    assert found is not None
    diff = found.diff()
    assert "port" in diff
    assert "sk-secret" not in diff
    assert not [c for c in diff if not (c.isprintable() or c == "\n")]


def test_files_that_cannot_be_read_are_only_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "--fix", str(tmp_path), str(tmp_path / "none.yaml")]) == 2
    out = capsys.readouterr().out
    assert "not-a-file" in out
    assert "missing-file" in out


def test_for_a_program_the_diff_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + "engine:\n  tpp: 1\n")
    assert main(["validate", "--fix", "--format", "json", str(file)]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["errors"] == []
    assert report["fixed"] == [
        {"file": str(file), "renames": [{"line": 4, "col": 3, "old": "tpp", "new": "tp"}]}
    ]
    assert "+  tp: 1" in captured.err
