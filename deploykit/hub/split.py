"""Names of models in several GGUF files: `NAME-00001-of-00003.gguf` and on."""

from __future__ import annotations

import re

MAX_PARTS = 1 << 10
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def parts_of(name: str) -> tuple[str, ...]:
    """The names of all parts of the model that `name` is a part of, in their order; empty for a whole file."""
    found = _PART.fullmatch(name)
    if found is None or not 1 < int(found["count"]) <= MAX_PARTS:
        return ()
    return tuple(
        f"{found['stem']}-{i:05}-of-{found['count']}.gguf" for i in range(1, int(found["count"]) + 1)
    )
