"""The template of gptfast's own chats, and the mask of what the assistant writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dialogues import FAST, WORDS, dialogues
from hypothesis import given

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.tokenizer.chat import ChatTemplate, write_chat_template
from gptfast.tokenizer.chat_template import ROLE_TOKENS, standard_template


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    text = "how are you?\n\nhello there\n hello you <|user|> <|end|>"
    return BPETokenizer.train([text], 300, progress=False).with_added(ROLE_TOKENS)


def test_the_standard_template_by_hand(tokenizer: BPETokenizer, ours: ChatTemplate) -> None:
    special, plain = tokenizer.special_tokens, tokenizer.encode_ordinary
    texts = ["\n be brief<|end|>", " hello\n<|assistant|>", "\n\nhow<|user|>"]
    roles = ["system", "user", "assistant"]
    messages = [{"role": r, "content": text} for r, text in zip(roles, texts, strict=True)]
    expected: list[tuple[int, bool]] = [(special["<|endoftext|>"], False)]
    for role, text in zip(roles, texts, strict=True):
        expected.append((special[f"<|{role}|>"], False))
        expected += [(i, role == "assistant") for i in [*plain(text), special["<|end|>"]]]
    ids, mask = ours.encode_with_mask(messages)
    assert list(zip(ids, mask, strict=True)) == expected
    assert ours.encode(messages) == [*ids, special["<|assistant|>"]]
    with pytest.raises(UserError, match="a role is tool: expected system, user or assistant"):
        ours.encode([{"role": "tool", "content": "a"}])


NAMES = (*ROLE_TOKENS, "<|endoftext|>")


@pytest.fixture(scope="module")
def ours(tokenizer: BPETokenizer) -> ChatTemplate:
    return ChatTemplate(standard_template(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def theirs(tokenizer: BPETokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    write_chat_template(folder, standard_template(tokenizer))
    return AutoTokenizer.from_pretrained(folder)


@FAST
@given(messages=dialogues(WORDS))
def test_ids_and_mask_are_those_of_transformers(
    ours: ChatTemplate, theirs: Any, messages: list[dict[str, str]]
) -> None:
    expected = theirs.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = ours.encode_with_mask(messages)
    assert ids == expected["input_ids"]
    assert mask == [bool(m) for m in expected["assistant_masks"]]
    assert ours.encode(messages) == [*ids, ours.tokenizer.special_tokens["<|assistant|>"]]


@FAST
@given(messages=dialogues((*WORDS, *NAMES, "<|us", "er|>", "|>")))
def test_no_text_adds_a_special_token(ours: ChatTemplate, messages: list[dict[str, str]]) -> None:
    tokenizer = ours.tokenizer
    name_of = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    ids, mask = ours.encode_with_mask(messages)
    special = [name_of[i] for i in ids if i in name_of]
    expected = [[f"<|{message['role']}|>", "<|end|>"] for message in messages]
    assert special == ["<|endoftext|>", *(name for pair in expected for name in pair)]
    contents: list[list[int]] = []
    for i in ids:
        if i in name_of:
            contents.append([])
        else:
            contents[-1].append(i)
    decoded = [tokenizer.decode(content) for content in contents[1::2]]
    assert decoded == [message["content"] for message in messages]
    assert not any(contents[::2])
    answers = [m["content"] + "<|end|>" for m in messages if m["role"] == "assistant"]
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "".join(answers)


def test_new_role_tokens_play_their_roles(tokenizer: BPETokenizer) -> None:
    chars = CharTokenizer(["a", "b"], ["<unk>"]).with_added(["<|endoftext|>", "<|end|>"])
    assert chars.special_tokens == {"<unk>": 2, "<|endoftext|>": 3, "<|end|>": 4}
    assert chars.stop_tokens == {3, 4}
    assert (chars.role_id("pad"), chars.role_id("unk")) == (3, 2)
    again = tokenizer.with_added(["<|im_end|>"])  # now it ends a turn
    special = again.special_tokens
    assert again.roles.end_of_turn == "<|im_end|>"
    assert again.stop_tokens == {special[n] for n in ("<|im_end|>", "<|end|>", "<|endoftext|>")}
    text = "hello <|im_end|> you"
    assert again.encode_ordinary(text) == tokenizer.encode_ordinary(text)
    with pytest.raises(UserError, match=r"has a token .* already"):
        tokenizer.with_added(["<|end|>"])
    with pytest.raises(UserError, match=r"no <\|system\|>, <\|user\|>"):
        standard_template(chars)


def test_a_mask_needs_generation_tags(tokenizer: BPETokenizer) -> None:
    messages = [{"role": "assistant", "content": " a "}]
    with pytest.raises(UserError, match=r"has no .% generation %. tags"):
        ChatTemplate("{{ messages[0].content }}", tokenizer).encode_with_mask(messages)
    inner = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    template = ChatTemplate(f"{{% set a %}}{inner}{{% endset %}}{{{{ a | trim }}}}", tokenizer)
    with pytest.raises(UserError, match=r"changes the text that its .* tags enclose"):
        template.encode_with_mask(messages)
