"""Offline means no connection at all: not one socket, not one name looked up, not one process started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_fakes import FakeHub

from deploykit.errors import ConfigError, DeploykitError
from deploykit.hub import HfRef, ModelScopeRef, PathRef, PypiRef, fetch, preview

REFS = [HfRef("owner/name"), ModelScopeRef("owner/name"), PypiRef("a==1", "f", "0" * 64)]

GUARDED = """
import sys
from pathlib import Path
seen = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen"):
        seen.append((event, args))
sys.addaudithook(watch)
from deploykit.errors import DeploykitError
from deploykit.cli.app import main
code = main(["pull", sys.argv[1], *sys.argv[2:]])
print("code", code, "seen", seen)
"""


@pytest.mark.parametrize("switch", ["DEPLOYKIT_OFFLINE", "HF_HUB_OFFLINE", "--offline", "preview"])
def test_no_connection_is_made(hub: FakeHub, tmp_path: Path, switch: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\nmodel:\n  sources:\n    - {hf: owner/name}\n    - {modelscope: owner/name}\n"
        f"    - {{pypi: a==1, file: f, sha256: {'a' * 64}}}\n"
    )
    env = {**os.environ, "DEPLOYKIT_CACHE": str(tmp_path / "cache")}
    args = [str(recipe)]
    if switch.startswith("--"):
        args.append(switch)
    elif switch == "preview":
        args += ["--dry-run", "--offline"]
    else:
        env[switch] = "1"
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, *args], capture_output=True, text=True, env=env, check=True
    )
    assert "code 1 seen []" in done.stdout
    assert hub.seen == []
    assert "offline" in done.stderr
    assert (switch if switch.isupper() else "--offline") in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("value", ["1", "true", "YES", " on "])
def test_the_error_names_the_switch_and_every_source(
    cache: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("DEPLOYKIT_OFFLINE", value)
    for ask in (fetch, preview):
        with pytest.raises(DeploykitError, match="isn't on this machine") as e:
            ask(REFS, cache=cache)
        text = str(e.value)
        assert "DEPLOYKIT_OFFLINE is set" in text
        assert all(str(ref) in text for ref in REFS)
        assert "unset DEPLOYKIT_OFFLINE" in str(e.value.fix)


@pytest.mark.parametrize("value", ["0", "", "no", "False"])
def test_a_switch_that_is_off(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DEPLOYKIT_OFFLINE", value)
    assert fetch([ModelScopeRef("owner/name")], cache=cache).path.is_dir()


def test_a_switch_that_is_neither(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_OFFLINE", "maybe")
    with pytest.raises(ConfigError, match="DEPLOYKIT_OFFLINE can't be 'maybe'"):
        fetch(REFS, cache=cache)


def test_a_path_needs_no_connection(cache: Path, tmp_path: Path) -> None:
    assert fetch([PathRef(tmp_path)], cache=cache, offline=True).path == tmp_path
    with pytest.raises(ConfigError, match="no such folder or file"):
        fetch([PathRef(tmp_path / "nowhere")], cache=cache, offline=True)
