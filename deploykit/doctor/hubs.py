"""Checks of the hubs: which are asked, whether they answer, whether there is a token, which is never shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from deploykit.doctor.check import Context, Finding, Status, ok, skip
from deploykit.hub.switches import OFFLINE, USE_MODELSCOPE

ANSWER_S = 3.0
_YES = ("1", "true", "yes", "on")
_HF = "https://huggingface.co"
_MODELSCOPE = "https://modelscope.cn"


def hugging_face(context: Context) -> Finding:
    env = context.environ
    endpoint = _hf_endpoint(env)
    parts = [f"{endpoint} (HF_ENDPOINT)" if env.get("HF_ENDPOINT") else endpoint, _hf_token(env)]
    return _judge(context, "Hugging Face", endpoint, parts, "HF_ENDPOINT")


def modelscope(context: Context) -> Finding:
    env = context.environ
    endpoint = _modelscope_endpoint(env)
    token = "token in MODELSCOPE_API_TOKEN" if env.get("MODELSCOPE_API_TOKEN") else "no token"
    first = _on(env.get(USE_MODELSCOPE, ""))
    parts = [endpoint, token, *([f"asked first ({USE_MODELSCOPE})"] if first else [])]
    finding = _judge(context, "ModelScope", endpoint, parts, "MODELSCOPE_ENDPOINT")
    if finding.status == "warn" and not first and not _asks_modelscope(context):
        return skip(f"{finding.found}; only recipes that name it ask it")
    return finding


def model_access(context: Context) -> Finding:
    """Whether the given recipe's model can be fetched: its repository is there, and open to us."""
    from deploykit.deployment.sources import refs_for
    from deploykit.errors import DeploykitError
    from deploykit.hub import HfRef, ModelScopeRef, PathRef, locate, preview
    from deploykit.plan.text import format_bytes

    if context.given is None:
        return skip("no recipe was given")
    refs = refs_for(context.given)
    if (found := locate(refs, cache=context.cache)) is not None:
        return ok(f"on the disk: {found.source}")
    if isinstance(refs[0], PathRef):
        return Finding(
            "fail", f"{refs[0].path} is not there", "the recipe's model is a path", "correct model.path"
        )
    if _offline(context) is not None:
        return skip("not on the disk, and offline mode is on")
    endpoints = {HfRef: _hf_endpoint, ModelScopeRef: _modelscope_endpoint}
    if (of := endpoints.get(type(refs[0]))) and head(of(context.environ))[0] != "ok":
        return skip(f"not on the disk, and the hub of {refs[0]} doesn't answer")
    try:
        there = preview(refs, cache=context.cache)
    except DeploykitError as error:
        return Finding("fail", error.what, error.why or "the model can't be fetched", error.fix or "")
    size = there.resolved.size if there.resolved is not None else None
    files = len(there.resolved.files) if there.resolved is not None else 0
    return ok(
        f"{there.source}: {files} files{f', {format_bytes(size)}' if size is not None else ''}",
        *there.failures,
    )


def _hf_endpoint(env: Mapping[str, str]) -> str:
    return (env.get("HF_ENDPOINT") or _HF).rstrip("/")


def _modelscope_endpoint(env: Mapping[str, str]) -> str:
    domain = env.get("MODELSCOPE_ENDPOINT") or env.get("MODELSCOPE_DOMAIN") or ""
    return (domain if "://" in domain else f"https://{domain}" if domain else _MODELSCOPE).rstrip("/")


def _offline(context: Context) -> str | None:
    """The variable that forbids connections."""
    return next((switch for switch in OFFLINE if _on(context.environ.get(switch, ""))), None)


def _judge(context: Context, name: str, endpoint: str, parts: list[str], mirror: str) -> Finding:
    if (switch := _offline(context)) is not None:
        found = ", ".join([f"offline mode on ({switch})", *parts])
        why = f"models that are not on the disk can't be fetched from {name}"
        return Finding("warn", found, why, f"unset {switch}")
    if urlsplit(endpoint).scheme not in ("http", "https"):
        return Finding("warn", ", ".join(parts), f"{endpoint!r} is no address of a hub", f"unset {mirror}")
    status, answer = head(endpoint)
    found = ", ".join([parts[0], answer, *parts[1:]])
    if status == "ok":
        return ok(found)
    why = f"models that are not on the disk can't be fetched from {name}"
    fix = f"check the connection and HTTPS_PROXY; {mirror} names a mirror; DEPLOYKIT_OFFLINE=1 says that there is none"
    return Finding(status, found, why, fix)


def head(url: str) -> tuple[Status, str]:
    """Ask for the headers of `url`, without any credential: (status, what came)."""
    import time

    import httpx

    began = time.monotonic()
    try:
        answer = httpx.head(url, timeout=ANSWER_S, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return "warn", f"no answer ({text})"
    took = f"{(time.monotonic() - began) * 1e3:.0f} ms"
    if answer.status_code >= 500:
        return "warn", f"answers {answer.status_code} in {took}"
    return "ok", f"answers in {took}"


def _hf_token(env: Mapping[str, str]) -> str:
    home = Path(
        env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
    )
    file = Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if env.get(name):
            return f"token in {name}"
    return f"token in {file}" if file.is_file() else "no token (public models need none)"


def _asks_modelscope(context: Context) -> bool:
    sources = context.given.recipe.model.sources if context.given is not None else None
    return any(hasattr(source, "modelscope") for source in sources or ())


def _on(value: str) -> bool:
    return value.strip().lower() in _YES
