"""Chat templates in their own process: what they get, and what they may not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import InvalidInput
from tests.models.test_models import need
from tests.support.tiny_decoder import TEMPLATE
from worker.models.generation.chat_template import ChatTemplate, read_template

need("jinja2")

HELLO = [{"role": "user", "content": 'say "hi" & <go>'}]


@pytest.fixture(scope="module")
def filled() -> Iterator[ChatTemplate]:
    template = ChatTemplate(TEMPLATE, seconds=20, memory_mb=256)
    yield template
    template.close()


@pytest.fixture
def made() -> Iterator[list[ChatTemplate]]:
    templates: list[ChatTemplate] = []
    yield templates
    for template in templates:
        template.close()


def test_messages_become_a_prompt_and_the_process_is_kept(filled: ChatTemplate) -> None:
    assert filled.fill(HELLO, {}) == ('<|turn|>user\nsay "hi" & <go><|end|><|turn|>assistant\n'), (
        "as it is, not as HTML"
    )
    first = filled._child
    assert filled.fill(HELLO * 3, {}).count("user") == 3
    assert filled._child is first


def test_a_process_that_was_killed_is_replaced(filled: ChatTemplate) -> None:
    filled.fill(HELLO, {})
    assert filled._child is not None
    filled._child.kill()
    filled._child.wait()
    assert "user" in filled.fill(HELLO, {})


def test_a_template_knows_no_setting_of_ours(
    monkeypatch: pytest.MonkeyPatch, made: list[ChatTemplate]
) -> None:
    monkeypatch.setenv("LANEFLEET_REDIS_URL", "redis://secret@example.com")
    template = ChatTemplate("{{ bos_token }}{{ messages|length }}", 20, 256)
    made.append(template)
    assert template.fill(HELLO, {"bos_token": "<s>"}) == "<s>1"
    assert template._child is not None
    environment = Path(f"/proc/{template._child.pid}/environ").read_bytes()
    assert b"secret" not in environment


HOSTILE = {
    "loops": (
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "took",
    ),
    "eats memory": ("{% set x = 'a' * 400000000 %}{{ x|length }}", "memory"),
    "long output": ("{{ 'a' * 40000000 }}", "process ended|took"),  # what comes first
    "reaches out": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|says"),
    "changes its input": ("{{ messages.append(1) }}", "unsafe|says"),
    "refuses": ("{{ raise_exception('only users may speak') }}", "only users may speak"),
    "does not compile": ("{% for %}", "cannot be compiled"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_template_may_not_do_fails_its_own_job(name: str, made: list[ChatTemplate]) -> None:
    source, says = HOSTILE[name]
    template = ChatTemplate(source, seconds=1.0, memory_mb=256)
    made.append(template)
    began = time.monotonic()
    with pytest.raises(InvalidInput, match=says):
        template.fill(HELLO, {})
    assert time.monotonic() - began < 60
    with pytest.raises(InvalidInput):
        template.fill(HELLO, {})


def test_a_template_that_loops_ends_without_its_parent_too(made: list[ChatTemplate]) -> None:
    template = ChatTemplate(HOSTILE["loops"][0], seconds=0.2, memory_mb=256)
    made.append(template)
    with template._lock:
        template._start()
        child = template._child
        assert child is not None
        assert child.stdin is not None
        os.write(child.stdin.fileno(), b'{"messages": []}\n')
    assert child.wait(60) != 0


def test_a_template_is_found_in_either_file(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": [{"name": "default", "template": "a"}]}')
    assert read_template(tmp_path) == "a"
    config.write_text('{"chat_template": "b"}')
    assert read_template(tmp_path) == "b"
    (tmp_path / "chat_template.jinja").write_text("c")
    assert read_template(tmp_path) == "c"
