"""Fields of OpenAI's API (and of its peers) that have no effect here: which are ignored, which are refused, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploykit.server.errors import bad_request, unsupported

# They say something about the caller, or how fast and where to serve: no answer changes by them.
IGNORED: dict[str, frozenset[str]] = {
    "chat": frozenset(
        {
            "user",
            "metadata",
            "store",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "prediction",
            "parallel_tool_calls",
        }
    ),
    "completion": frozenset({"user", "metadata", "service_tier", "safety_identifier"}),
    "stream_options": frozenset({"include_obfuscation"}),
    "message": frozenset({"id", "annotations", "refusal", "reasoning_content", "reasoning"}),
    "part": frozenset({"annotations", "cache_control"}),
}

_TOOLS = "this server doesn't call tools"

# Name -> (values that ask for nothing special, why others are refused). Null is always accepted.
REFUSED: dict[str, dict[str, tuple[tuple[Any, ...], str]]] = {
    "chat": {
        "tools": (([],), _TOOLS),
        "tool_choice": (("none", "auto"), _TOOLS),
        "functions": (([],), _TOOLS),
        "function_call": (("none", "auto"), _TOOLS),
        "response_format": (({"type": "text"},), 'the answer is plain text; only {"type": "text"} is served'),
        "modalities": ((["text"],), "this server answers with text alone"),
        "audio": ((), "this server answers with text alone"),
        "web_search_options": ((), "this server searches nothing"),
        "reasoning_effort": ((), "this server doesn't steer reasoning"),
        "verbosity": (("medium",), "this server doesn't steer verbosity"),
    },
    "completion": {
        "response_format": (({"type": "text"},), "the answer is plain text"),
    },
    "message": {
        "tool_calls": (([],), _TOOLS),
        "function_call": ((), _TOOLS),
        "tool_call_id": ((), _TOOLS),
        "audio": ((), "this server takes text alone"),
    },
}


def check_extra(extra: Mapping[str, Any] | None, *, kind: str, prefix: str = "") -> None:
    """Raise ApiError (400) for the first field that may not be ignored. Null fields ask for nothing."""
    for name, value in (extra or {}).items():
        if value is None or name in IGNORED.get(kind, ()):
            continue
        if (rule := REFUSED.get(kind, {}).get(name)) is not None:
            neutral, why = rule
            if not any(type(value) is type(one) and value == one for one in neutral):
                raise unsupported(prefix + name, why)
            continue
        shown = (prefix + name)[:100]
        raise bad_request(f"Unknown field `{shown}`.", param=shown, code="unknown_parameter")
