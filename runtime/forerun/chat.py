"""Chat messages become a prompt through the bundle's own chat template (jinja2, imported only here)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from forerun.errors import ForerunError, refuse_argument

Message = Mapping[str, Any]


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as plain dicts; refuses a list that is empty or a message without role and content."""
    if not messages:
        raise refuse_argument("the chat prompt has no message; give at least one {'role': 'user', 'content': '...'}")
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise refuse_argument(f"message {position}: expected a mapping, got {type(message).__name__}")
        missing = [key for key in ("role", "content") if key not in message]
        if missing:
            raise refuse_argument(f"message {position} lacks {' and '.join(missing)}; it has {sorted(message)}")
    return [dict(message) for message in messages]


def render_chat(template: str, messages: Sequence[Message], *, special_tokens: Mapping[str, str]) -> str:
    """The prompt text of a chat, ending where the assistant's answer begins.

    `special_tokens` are the names that templates use (`bos_token`, `eos_token`). The template came with a checkpoint:
    it runs in jinja2's immutable sandbox and can reach nothing but its arguments. The environment (trimmed blocks,
    loop controls, `tojson`, `raise_exception`, `strftime_now`) is the one that Hugging Face templates are written for.
    """
    plain = check_messages(messages)
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError as error:
        raise ForerunError(
            "backend error",
            "chat messages need jinja2, which is not installed; `pip install forerun[chat]` or give the prompt as text",
        ) from error
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse_chat
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        text = environment.from_string(template).render(
            messages=plain, add_generation_prompt=True, tools=None, documents=None, **special_tokens
        )
    except ForerunError:
        raise
    except Exception as error:  # the template is foreign code: whatever goes wrong in it is its refusal
        raise refuse_argument(f"the bundle's chat template refused these messages: {error}") from error
    return str(text)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse_chat(message: str) -> None:
    raise refuse_argument(f"the bundle's chat template refused these messages: {message}")
