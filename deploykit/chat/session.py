"""One conversation with one model: what the REPL and the one-shot form both do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deploykit.chat.answer import Answer
from deploykit.chat.client import Client
from deploykit.chat.conversation import Conversation
from deploykit.errors import DeploykitError


@dataclass
class Session:
    client: Client
    model: str
    params: dict[str, Any] = field(default_factory=dict)  # sampling, as `params` checked it
    conversation: Conversation = field(default_factory=Conversation)

    def ask(self, text: str, show: Callable[[str], None]) -> Answer:
        """Stream the answer to `text` through `show`; it joins the conversation.

        Ctrl-C closes the connection and gives the answer so far, marked aborted. A failure raises
        DeploykitError and leaves the question open, so that it can be asked again.
        """
        body = {"model": self.model, "messages": self.conversation.ask(text), **self.params}
        answer = Answer()
        try:
            with contextlib.closing(self.client.stream_chat(body)) as deltas:
                for delta in deltas:
                    answer.add(delta)
                    if delta.text:
                        show(delta.text)
        except KeyboardInterrupt:
            answer.aborted = True
        if answer.text or not answer.aborted:
            self.conversation.answer(answer.text)
        return answer


def open_session(client: Client, model: str | None, params: dict[str, Any], system: str | None) -> Session:
    """A session with `model`, or with the first that the server lists."""
    if model is None:
        models = client.models()
        if not models:
            raise DeploykitError("the server lists no model", where=f"{client.base}/models")
        model = models[0]
    return Session(client, model, dict(params), Conversation(system or None))
