"""What may be shown: credentials are masked everywhere, people and places in a report that is passed on."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

MASK = "***"

_NAME = (
    r"(?:api[_-]?keys?|apikey|access[_-]?key|private[_-]?key|secret[_-]?key|token(?!s|iz)|secret|password|passwd|pwd|"
    r"passphrase|credentials?|authorization|auth|cookie|session[_-]?id|signature|sig)"
)
_VALUE = r"(?!\s|\*|\[|\{|null\b|none\b|true\b|false\b|[\"'])[^\s,;&\"'}\]]{3,}"
# What a credential looks like, whatever stands around it.
_FORMS = (
    r"hf_[A-Za-z0-9]{8,}",
    r"api_org_[A-Za-z0-9]{8,}",
    r"ms-[0-9a-f]{8}-[0-9a-f-]{20,}",  # ModelScope
    r"sk-[A-Za-z0-9_-]{8,}",
    r"gh[opsur]_[A-Za-z0-9]{16,}",
    r"github_pat_[A-Za-z0-9_]{16,}",
    r"glpat-[A-Za-z0-9_-]{16,}",
    r"xox[abeprs]-[A-Za-z0-9-]{8,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"AIza[A-Za-z0-9_-]{30,}",
    r"nvapi-[A-Za-z0-9_-]{16,}",
    r"pypi-[A-Za-z0-9_-]{16,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",  # a JSON Web Token
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
    (re.compile(r"\b(?:" + "|".join(_FORMS) + r")"), MASK),
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {MASK}"),
    (re.compile(r"(?i)\b(basic)\s+[A-Za-z0-9+/=]{16,}"), rf"\1 {MASK}"),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@"), rf"\1{MASK}@"),  # https://user:password@host
    # NAME=value, "name": "value", ?name=value; `{env: NAME}` and `{file: PATH}` only name a secret
    (re.compile(rf"(?i)(?<![a-z0-9])([a-z0-9_.-]*{_NAME}[\"']?\s*[:=]\s*[\"']?){_VALUE}"), rf"\1{MASK}"),
    (re.compile(rf"(?i)(--?[a-z0-9_.-]*{_NAME}[ \t]+[\"']?){_VALUE}"), rf"\1{MASK}"),  # --name value
)
_SECRET_NAME = re.compile(rf"(?i)(?:^|[_.-]){_NAME}(?:$|[_.-])|(?:key|token|secret|password)$")
_ONLY_NAMES = re.compile(
    r"(?i)(?:_path|_file|_dir|_home|_sock)$|^(?:old)?pwd$"
)  # places, no secrets: SSH_AUTH_SOCK, PWD
_PLAIN_USERS = frozenset(
    {"root", "user", "users", "ubuntu", "debian", "admin", "docker", "nobody", "runner", "app"}
)
_HOMES = re.compile(r"(?<![\w.])(/(?:var/)?home|/Users|[A-Za-z]:[\\/]Users)([\\/])([^\s\\/:;,'\"`)\]]+)")


def mask_secrets(text: str) -> str:
    """`text` with stars in place of what is, or looks like, a token, a key or a password."""
    if not text:
        return text
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a credential."""
    return bool(_SECRET_NAME.search(name)) and not _ONLY_NAMES.search(name)


class Redactor:
    """Masks credentials, the values of secret variables, user names, home folders and the names of this machine."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        home: Path | None = None,
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        """`secrets` are further values that must not be shown, such as the contents of a token file."""
        values = [value for name, value in environ.items() if is_secret_name(name)]
        self._secrets = sorted(
            {s.strip() for s in (*values, *secrets) if len(s.strip()) >= 4}, key=len, reverse=True
        )
        self._home = str(home) if home is not None and str(home) not in ("/", "") else None
        names = {user for user in users if len(user) >= 2 and user.lower() not in _PLAIN_USERS}
        self._users = _any_of(names)
        parts = {host for host in hosts if len(host) >= 2 and not host.lower().startswith("localhost")}
        self._hosts = _any_of(parts)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        text = mask_secrets(text)
        if self._home:
            text = re.sub(rf"(?<![\w.-]){re.escape(self._home)}(?![\w-])", "~", text)
        text = _HOMES.sub(r"\1\2<user>", text)
        if self._users:
            text = self._users.sub("<user>", text)
        return self._hosts.sub("<host>", text) if self._hosts else text


def _any_of(names: set[str]) -> re.Pattern[str] | None:
    """One of the names, as a word of its own; the longest first."""
    if not names:
        return None
    words = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<![\w.-])(?:{words})(?![\w-])", re.IGNORECASE)


def this_machine(environ: Mapping[str, str]) -> Redactor:
    """The redactor for this user on this machine."""
    return Redactor(
        environ, home=_home(), users=_users(environ), hosts=_hosts(environ), secrets=_stored(environ)
    )


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # no home can be told
        return None


def _users(environ: Mapping[str, str]) -> set[str]:
    """This user by login and full name, and everybody who may log in here (a busy port names its holder)."""
    found = {environ[name] for name in ("USER", "LOGNAME", "SUDO_USER", "USERNAME") if environ.get(name)}
    try:
        import pwd
    except ImportError:  # Windows
        return found
    try:
        people = pwd.getpwall()
    except OSError:
        return found
    for person in people:
        if person.pw_uid == os.getuid() or 1000 <= person.pw_uid < 65000:
            found.add(person.pw_name)
            full = person.pw_gecos.partition(",")[0].strip()
            if " " in full:
                found.add(full)
    return found


def _hosts(environ: Mapping[str, str]) -> set[str]:
    """This machine's names, and both ends of the session's connection."""
    found = {socket.gethostname(), environ.get("HOSTNAME", "")}
    found |= {name.partition(".")[0] for name in found}
    words = f"{environ.get('SSH_CONNECTION', '')} {environ.get('SSH_CLIENT', '')}".split()
    return found | {word for word in words if "." in word or ":" in word}


def _stored(environ: Mapping[str, str]) -> list[str]:
    """Tokens that logins left in files."""
    home = _home()
    if home is None:
        return []
    hf = Path(environ.get("HF_HOME") or home / ".cache/huggingface")
    files = [
        Path(environ.get("HF_TOKEN_PATH") or hf / "token"),
        hf / "stored_tokens",
        home / ".modelscope/credentials/git_token",
    ]
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")[:65536]
        except OSError:
            continue
        found += [line.rpartition("=")[2].strip() for line in text.splitlines() if not line.startswith("[")]
    return found
