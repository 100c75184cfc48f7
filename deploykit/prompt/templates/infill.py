"""Fill in the middle: a prompt of what stands before a gap and what stands after it, for models trained on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.prompt.tokenizer import Tokenizer

FILL = "<FILL>"  # the gap, in a prompt that holds both sides


class _Family(NamedTuple):
    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...] = ()  # tokens that end the text that was filled in, beside the model's own end


# All of them in the order prefix, suffix, middle.
_FAMILIES = (
    _Family("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),  # Code Llama
    _Family("<PRE>", "<SUF>", "<MID>", ("<EOT>",)),
    _Family(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>")
    ),
    _Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<|endoftext|>",)),  # StarCoder
    _Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek Coder
)


def find_family(has_token: Callable[[str], bool]) -> _Family:
    """The tokens around a gap that a vocabulary has. Raises ConfigError where it has none."""
    for family in _FAMILIES:
        if all(map(has_token, family[:3])):
            return family
    known = "; ".join(" ".join(family[:3]) for family in _FAMILIES)
    raise ConfigError(
        "this model can't fill in the middle of a text",
        where="chat.capability: infilling",
        why=f"its vocabulary has none of these tokens: {known}",
        fix="use a model that was trained for it, such as CodeLlama-7b or Qwen2.5-Coder, "
        "or another chat.capability",
    )


class InfillTokens(NamedTuple):
    """Ids of the tokens around the parts of a gap."""

    prefix: int
    suffix: int
    middle: int
    ends: tuple[int, ...] = ()

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> InfillTokens:
        """Those of this vocabulary. Raises ConfigError where it has none: the model wasn't trained to fill in."""
        family = find_family(lambda name: tokenizer.token_id(name) is not None)
        prefix, suffix, middle = (tokenizer.token_id(name) or 0 for name in family[:3])
        ends = tuple(i for name in family.ends if (i := tokenizer.token_id(name)) is not None)
        return cls(prefix, suffix, middle, ends)

    def encode(self, before: str, after: str, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the prompt, without BOS. What is after the gap begins within a text: no space is put there."""
        head = tokenizer.encode(before) if before else []
        tail = tokenizer.encode_continuation(after) if after else []
        return [self.prefix, *head, self.suffix, *tail, self.middle]


def split_gap(prompt: str) -> tuple[str, str] | None:
    """What stands before and after the one `<FILL>` of a prompt; None where it has none. Raises ValueError for more."""
    parts = prompt.split(FILL)
    if len(parts) > 2:
        raise ValueError(f"a prompt has one {FILL}, and this one has {len(parts) - 1}")
    return (parts[0], parts[1]) if len(parts) == 2 else None
