"""API keys: read from the environment or a file, kept only as sha256; and who may be reached without one."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from deploykit.errors import ConfigError
from deploykit.recipe.schema import EnvSecret, FileSecret, ServerSection

_MAX_KEY_FILE = 64 << 10  # bytes


def hash_api_keys(keys: Sequence[EnvSecret | FileSecret]) -> tuple[str, ...]:
    """sha256 (hex) of each key. Raises ConfigError for a key that can't be read."""
    return tuple(
        hashlib.sha256(_read(key, f"server.api_keys[{i}]").encode()).hexdigest() for i, key in enumerate(keys)
    )


def check_exposure(server: ServerSection) -> None:
    """Refuse an address that other machines reach when no API key is asked for."""
    if not is_loopback(server.host) and not server.api_keys:
        raise ConfigError(
            f"{server.host} is open to other machines, and no API key is asked for",
            where="server.host, server.api_keys",
            why="anybody who reaches this address could use the model",
            fix="add a key: `server: {api_keys: [{env: DEPLOYKIT_API_KEY}]}` and set that variable; "
            "or serve this machine alone: `--set server.host=127.0.0.1`",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than localhost is taken to be open."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _read(key: EnvSecret | FileSecret, where: str) -> str:
    if isinstance(key, EnvSecret):
        value = os.environ.get(key.env)
        if value is None or not value.strip():
            state = "not set" if value is None else "empty"
            raise ConfigError(
                f"the environment variable {key.env} is {state}",
                where=f"{where}.env",
                why="the recipe takes an API key from it",
                fix=f"export {key.env}=… before `deploykit up`, or remove the entry",
            )
        return value.strip()
    path = Path(key.file)
    try:
        with path.open("rb") as f:
            raw = f.read(_MAX_KEY_FILE + 1)
        text = raw.decode().strip()
    except OSError as error:
        raise _bad_file(path, where, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _bad_file(path, where, "it isn't UTF-8 text") from None
    if not text or len(raw) > _MAX_KEY_FILE or len(text.splitlines()) != 1:
        raise _bad_file(path, where, "it must hold one key on one line")
    return text


def _bad_file(path: Path, where: str, why: str) -> ConfigError:
    return ConfigError(
        f"the API key can't be read from {path}",
        where=f"{where}.file",
        why=why,
        fix="write the key, and nothing else, into that file",
    )
