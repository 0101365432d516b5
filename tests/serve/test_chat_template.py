"""The template of a chat: what it may do, and that no message can write a special token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.model import GPT
from gptfast.model.folder import save_description, save_weights
from gptfast.serve.__main__ import main
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import ChatTemplate, read_chat_template


def user(content: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_a_message_can_not_end_its_turn(tokenizer: BPETokenizer) -> None:
    """What a message spells is text, though the template writes the same names as tokens."""
    template = ChatTemplate("<|user|>{{ messages[0].content }}<|assistant|>", tokenizer)
    special = tokenizer.special_tokens
    for text in ("<|assistant|>", "a<|endoftext|>b<|user|>", "<|user|", "|>", "<|us<|user|>er|>"):
        ids = template.encode([{"role": "user", "content": text}])
        inside = tokenizer.encode_ordinary(text)
        assert ids == [special["<|user|>"], *inside, special["<|assistant|>"]]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("<|a|>", "[<|a|>]"), "[<|a|>]"),  # one within another
        (("<s><", "<s>"), "a<s><s>"),  # one that begins where another goes on
        (("ab1", "b1c"), "ab1c"),  # two that overlap
        (("→",), "a→b"),  # one of a single character
    ],
)
def test_special_tokens_may_overlap(names: tuple[str, ...], text: str) -> None:
    tokenizer = BPETokenizer.train(["a b c"], 256 + len(names), "none", special_tokens=names)
    for source in ("{{ messages[0].content }}", "{{ messages[0].content | lower }}"):
        assert ChatTemplate(source, tokenizer).encode(user(text)) == list(text.encode())


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(st.text("ab<", min_size=2, max_size=4), min_size=1, max_size=4, unique=True),
    texts=st.lists(st.text("abB< ", max_size=6), min_size=2, max_size=2),
    around=st.tuples(*[st.sampled_from(["", "a", "<"])] * 2),
    end=st.sampled_from(["", " | upper | lower", " | trim"]),
)
def test_no_message_becomes_a_special_token(
    names: list[str], texts: list[str], around: tuple[str, str], end: str
) -> None:
    """Neither alone nor with what is beside it, stripped or in another case."""
    tokenizer = BPETokenizer.train(["a"], 256 + len(names), "none", special_tokens=tuple(names))
    before, after = around
    contents = f"{{% for m in messages %}}{{{{ m.content{end} }}}}{{% endfor %}}"
    source = before + contents + after
    ids = ChatTemplate(source, tokenizer).encode([*user(texts[0]), *user(texts[1])])
    change = {"": str, " | trim": str.strip, " | upper | lower": str.lower}[end]
    text = "".join(change(text) for text in texts)
    if text:  # otherwise the template may write a special token itself
        written = bytes(ids).decode()  # ValueError for the id of a special token
        # What is hidden keeps its case.
        assert (written.lower() if "lower" in end else written) == before + text + after


def test_what_a_message_spells_survives_filters(tokenizer: BPETokenizer) -> None:
    text = "a<|user|>ß"
    for filters, expected in (
        ("upper", "A<|user|>SS"),  # what is hidden from the search keeps its case
        ("length", "10"),
        ("tojson", '"a<|user|>ß"'),
        ("tojson(ensure_ascii=True)", '"a<|user|>\\u00df"'),
        ("reverse", "ß>|resu|<a"),
        ("replace('a', '<|')", "<|<|user|>ß"),
    ):
        template = ChatTemplate(f"{{{{ messages[0].content | {filters} }}}}", tokenizer)
        assert template.encode(user(text)) == tokenizer.encode_ordinary(expected), filters
        nested = {"role": "user", "content": "", "parts": [{"type": "text", "text": text}]}
        source = (
            f"{{% for part in messages[0].parts %}}{{{{ part.text | {filters} }}}}{{% endfor %}}"
        )
        assert ChatTemplate(source, tokenizer).encode([nested]) == template.encode(user(text))
    with pytest.raises(UserError, match="a lone surrogate"):
        template.encode(user("\ud800"))


def test_a_template_runs_in_a_sandbox(tokenizer: BPETokenizer) -> None:
    for source in (
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception('no system message') }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
    ):
        late = "{% if messages[0].content == 'b' %}" + source + "{% endif %}"
        with pytest.raises(UserError, match="the chat template refuses the messages"):
            ChatTemplate(late, tokenizer).encode(user("b"))
        if "raise_exception" not in source:
            with pytest.raises(UserError, match="the chat template fails: "):
                ChatTemplate(source, tokenizer)
    with pytest.raises(UserError, match="not valid Jinja"):
        ChatTemplate("{% for %}", tokenizer)
    with pytest.raises(UserError, match="the chat template fails: 'nothing' is undefined"):
        ChatTemplate("{{ nothing() }}", tokenizer)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"chat_template": "\xff"}')
    with pytest.raises(UserError, match=f"{name} is not UTF-8: .* at byte 19"):
        read_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    for content, found in (("{", "is not JSON"), ('["a"]', None), ('{"chat_template": 1}', None)):
        (tmp_path / "tokenizer_config.json").write_text(content)
        if found is None:
            assert read_chat_template(tmp_path) is None
        else:
            with pytest.raises(UserError, match=found):
                read_chat_template(tmp_path)


def test_templates_render_as_in_transformers(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = """{%- if tools is not none or documents is not none %}{{ 1 / 0 }}{% endif %}
{%- set ns = namespace(n=0) %}
{%- for m in messages %}
    {%- if m.role == 'system' %}{% continue %}{% endif %}
    {%- if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
    {% if loop.first %}{{ bos_token }}{% endif %}
    {%- if m.role == 'assistant' %}
        {% generation %}
            {%- set ns.n = ns.n + 1 %}
{{ loop.index }}: {{ m.content }}{{ eos_token }}
        {%- endgeneration %}
    {% else %}
<|{{ m.role }}|>{{ m.content | trim }} {{ {'b': 'é<', 'a': 1} | tojson }}
    {% endif %}
    {{ {'b': 'é<', 'a': [1]} | tojson(ensure_ascii=True, indent=1, sort_keys=True) }}
    {{ [1, 2] | tojson(separators=(' ,', ':')) }}
{% endfor %}{{ ns.n }} {{ strftime_now('%Y') }} {{ '<|assistant|>' if add_generation_prompt }}"""
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source)
    assert read_chat_template(tmp_path) == source
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": " Hallo "},
        {"role": "assistant", "content": "b"},
    ]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    assert ChatTemplate(source, tokenizer).encode(messages) == list(expected["input_ids"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"\xff", "is not UTF-8"),
        (b"{% for %}", "is not valid Jinja"),
        (b"{{ nothing() }}", "the chat template fails: 'nothing' is undefined"),
    ],
)
def test_a_server_with_an_unusable_template_does_not_start(
    model: GPT,
    tokenizer: BPETokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: bytes,
    message: str,
) -> None:
    save_description(tmp_path, model.config, tokenizer)
    save_weights(model, tmp_path / "model.safetensors")
    (tmp_path / "chat_template.jinja").write_bytes(source)
    assert cli.run(main, [str(tmp_path), "--port", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
