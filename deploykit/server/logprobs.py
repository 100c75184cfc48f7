"""Log probabilities as OpenAI's two dialects write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploykit.engine.types import TokenLogprob
from deploykit.prompt.detokenize import Detokenizer
from deploykit.prompt.tokenizer import Tokenizer
from deploykit.server.choice import LogprobEntry

LOWEST = -9999.0  # stands for minus infinity, which JSON can't say


def chat_content(entries: Sequence[LogprobEntry], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """`logprobs.content` of a chat choice."""
    content = []
    for _, values in entries:
        item = _chat_token(values.token, values.logprob, tokenizer)
        item["top_logprobs"] = [_chat_token(token, logprob, tokenizer) for token, logprob in values.top]
        content.append(item)
    return content


def _chat_token(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode(errors="replace"), "logprob": max(logprob, LOWEST), "bytes": list(data)}


class CompletionLogprobs:
    """The four parallel lists of a text completion's `logprobs`."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.token_logprobs: list[float | None] = []
        self.top_logprobs: list[dict[str, float] | None] = []
        self.text_offset: list[int] = []

    def add(self, token: int, values: TokenLogprob | None, offset: int, tokenizer: Tokenizer) -> None:
        self.tokens.append(token_name(token, tokenizer))
        self.text_offset.append(offset)
        if values is None:
            self.token_logprobs.append(None)
            self.top_logprobs.append(None)
            return
        self.token_logprobs.append(max(values.logprob, LOWEST))
        top = {token_name(other, tokenizer): max(logprob, LOWEST) for other, logprob in values.top}
        top.setdefault(token_name(token, tokenizer), max(values.logprob, LOWEST))
        self.top_logprobs.append(top)

    def add_answer(self, entries: Sequence[LogprobEntry], start: int, tokenizer: Tokenizer) -> None:
        """Tokens of the answer, whose text begins `start` characters into the whole."""
        for offset, values in entries:
            self.add(values.token, values, start + offset, tokenizer)

    def add_prompt(
        self, ids: Sequence[int], values: Sequence[TokenLogprob], silent: int, tokenizer: Tokenizer
    ) -> None:
        """The prompt's tokens; the first has no log probability, the first `silent` (an added BOS) have no text."""
        detokenizer = Detokenizer(tokenizer, skip_special=False)
        offset = 0
        for position, token in enumerate(ids):
            self.add(token, values[position - 1] if position else None, offset, tokenizer)
            if position >= silent:
                offset += len(detokenizer.push(token))

    def body(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }


def token_name(token: int, tokenizer: Tokenizer) -> str:
    """A token as text; `bytes:\\xe2\\x80` where it is only a part of a character."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def prompt_logprobs(values: Sequence[TokenLogprob], tokenizer: Tokenizer) -> list[dict[str, Any] | None]:
    """`prompt_logprobs` of an answer: for every prompt token but the first, token id -> its values."""
    rows: list[dict[str, Any] | None] = [None]
    for value in values:
        row = {
            str(token): {
                "logprob": max(logprob, LOWEST),
                "rank": rank,
                "decoded_token": tokenizer.token_text(token),
            }
            for rank, (token, logprob) in enumerate(value.top, 1)
        }
        row.setdefault(
            str(value.token),
            {
                "logprob": max(value.logprob, LOWEST),
                "rank": value.rank,
                "decoded_token": tokenizer.token_text(value.token),
            },
        )
        rows.append(row)
    return rows
