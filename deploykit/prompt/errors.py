"""What can be wrong with a prompt: the fault of the request, never of the server."""

from __future__ import annotations


class PromptError(Exception):
    """A prompt can't be made from a request.

    `code` is stable: `template_rejected` (the chat template refused the messages), `template_failed` (it can't
    render them), `template_limit` (it ran over its time or size) or `prompt_empty`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PromptTooLong(PromptError):
    """The prompt can't fit the session. `tokens` is exact where `counted`, else a lower bound."""

    def __init__(self, tokens: int, session_len: int, *, counted: bool) -> None:
        at_least = "" if counted else "at least "
        super().__init__(
            "prompt_too_long",
            f"The prompt has {at_least}{tokens} tokens, and a session holds {session_len} with its output.",
        )
        self.tokens = tokens
        self.session_len = session_len
        self.counted = counted
