"""The engines that ours is measured against: where their packages are, their files, their settings."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.bench.child import JsonChild, MissingPackageError
from deploykit.checkpoint.convert import cache_key, converted_file
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.tokenizer import ensure_tokenizer
from deploykit.errors import ConfigError
from deploykit.fsutil import file_lock

MAIN = Path(__file__).with_name("peer_main.py")


@dataclass(frozen=True)
class PeerKind:
    """A peer that `--vs` knows."""

    key: str
    packages: str  # what pip installs
    plain: bool  # it can use the dequantized weights too

    @property
    def variable(self) -> str:
        return f"DEPLOYKIT_BENCH_{self.key.upper()}_PYTHON"


KINDS = {
    "llamacpp": PeerKind("llamacpp", "llama-cpp-python", plain=False),
    "openvino": PeerKind(
        "openvino",
        "openvino-genai openvino-tokenizers (and optimum-intel nncf for its own exporter)",
        plain=True,
    ),
}


@dataclass(frozen=True)
class Setting:
    """One way to run a peer; `jobs` says what it can do: `single`, `batch`."""

    name: str
    jobs: frozenset[str]


@dataclass(frozen=True)
class Peer:
    """A peer that is installed, with its files made."""

    key: str
    name: str
    version: str
    argv: tuple[str, ...]
    model_path: str
    folder: str
    settings: tuple[Setting, ...]


def interpreters(given: Sequence[str]) -> dict[str, str]:
    """`NAME=/path/to/python` items by name. Raises ConfigError."""
    found = {}
    for item in given:
        name, equals, path = item.partition("=")
        if name not in KINDS or not (equals and path):
            known = " or ".join(KINDS)
            raise ConfigError(f"--peer-python {item}: not NAME=PATH", fix=f"NAME is {known}, PATH a Python")
        found[name] = path
    return found


def command_of(kind: PeerKind, given: Mapping[str, str]) -> tuple[str, ...]:
    """The peer's command line: with the interpreter that was named, the variable's, or ours."""
    python = given.get(kind.key) or os.environ.get(kind.variable) or sys.executable
    if shutil.which(python) is None:
        raise ConfigError(
            f"there is no Python {python} to run {kind.key} with",
            fix=f"correct --peer-python {kind.key}=PATH or {kind.variable}",
        )
    return (python, str(MAIN), kind.key)


def hello(kind: PeerKind, argv: tuple[str, ...]) -> tuple[str, str]:
    """The peer's (name, version). Raises ConfigError, with what to install and where, for one that isn't installed."""
    with JsonChild(kind.key, argv) as child:
        try:
            reply = child.call({"op": "hello"})
        except MissingPackageError as error:
            raise missing(kind, argv[0], error.why) from None
    return str(reply["name"]), str(reply["version"])


def prepare(kind: PeerKind, argv: tuple[str, ...], facts: Facts, cache: Path) -> Peer:
    """Let the peer make its files in `cache` where they aren't there.

    Raises ConfigError as `hello` does, and DeploykitError with the peer's own words for everything else.
    """
    name, version = hello(kind, argv)
    folder = cache / "bench" / f"{_key(facts)}-{version.replace(' ', '-').replace('/', '-')}"
    with file_lock(cache / "locks" / f"{folder.name}.lock"):
        folder.mkdir(parents=True, exist_ok=True)
        plain = str(plain_folder(facts, cache)) if kind.plain else None
        with JsonChild(kind.key, argv) as child:
            reply = child.call(
                {"op": "prepare", "model_path": facts.path, "plain": plain, "folder": str(folder)}
            )
    settings = tuple(Setting(str(s["name"]), frozenset(s["jobs"])) for s in reply["settings"])
    return Peer(kind.key, name, version, argv, facts.path, str(folder), settings)


def missing(kind: PeerKind, python: str, why: str | None) -> ConfigError:
    return ConfigError(
        f"--vs {kind.key}: its package is not installed",
        where=python,
        why=why,
        fix=f"{python} -m pip install {kind.packages}; or, to keep it out of this environment, name another "
        f"one's Python with --peer-python {kind.key}=PATH or {kind.variable}",
    )


def plain_folder(facts: Facts, cache: Path) -> Path:
    """The model in Hugging Face's layout with float32 weights: what exporters of other engines read."""
    if facts.format != "gguf":
        return Path(facts.path)
    folder = cache / "bench" / f"{_key(facts)}-float32"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ensure_tokenizer(facts, cache)
    special = {"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **{k: v for k, v in special.items() if v}}
    (folder / "config.json").write_text(json.dumps(facts.config))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    shutil.copyfile(tokenizer.tokenizer_json, folder / "tokenizer.json")
    weights = folder / "model.safetensors"
    weights.unlink(missing_ok=True)
    weights.symlink_to(converted_file(facts, "float32", cache))
    return folder


def _key(facts: Facts) -> str:
    if facts.format == "gguf":
        return cache_key(facts)
    return "-".join(Path(facts.path).resolve().parts[-3:]).strip("/-") or "model"
