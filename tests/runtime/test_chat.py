"""Chat templates: rendered as Hugging Face does, in a sandbox, with refusals that say why."""

import sys
from typing import Any

import pytest

from forerun.chat import render_chat
from forerun.errors import ForerunError

ASK = [{"role": "user", "content": "hi"}]


def render(template: str, messages: list[dict[str, Any]] = ASK) -> str:
    return render_chat(template, messages, special_tokens={"bos_token": "<s>"})


def test_messages_special_tokens_and_the_answer_mark_are_given() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert render(template) == "<s>[user]hi[assistant]"


def test_blocks_are_trimmed_and_loop_controls_exist() -> None:
    loop = "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n"
    template = loop + "{% break %}\n{% endif %}\n{% endfor %}"
    assert render(template, ASK * 2) == "hi\n"


def test_tojson_keeps_unicode_and_markup() -> None:
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'


def test_a_refusal_of_the_template_is_quoted() -> None:
    with pytest.raises(ForerunError, match="chat template refused these messages: only user may speak") as caught:
        render("{{ raise_exception('only user may speak') }}")
    assert caught.value.status == "invalid argument"


@pytest.mark.parametrize("template", ["{% for %}", "{{ 'a' + messages[0].role + 1 }}", "{{ nothing.at.all }}"])
def test_a_template_that_fails_is_a_refusal(template: str) -> None:
    with pytest.raises(ForerunError, match="the bundle's chat template refused these messages: "):
        render(template)


def test_a_template_reaches_nothing_outside_its_sandbox() -> None:
    with pytest.raises(ForerunError, match="unsafe"):
        render("{{ messages.__class__.__mro__ }}")
    with pytest.raises(ForerunError, match="refused"):
        render("{{ messages.append(1) }}")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "has no message"),
        ([{"role": "user"}], "message 0 lacks content"),
        ([*ASK, {}], "message 1 lacks role and content"),
        (["hi"], "message 0: expected a mapping, got str"),
    ],
)
def test_messages_are_checked(messages: list[Any], message: str) -> None:
    with pytest.raises(ForerunError, match=message):
        render("{{ messages }}", messages)


def test_without_jinja2_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("jinja2", "jinja2.sandbox"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ForerunError, match=r"need jinja2, which is not installed; `pip install forerun\[chat\]`"):
        render("{{ messages }}")
