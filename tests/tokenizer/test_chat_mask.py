"""The template of gptfast's own chats, and the mask of what the assistant writes."""

from __future__ import annotations

import pytest

from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer, CharTokenizer
from gptfast.tokenizer.chat import ChatTemplate
from gptfast.tokenizer.chat_template import ROLE_TOKENS, standard_template


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    text = "how are you?\n\nhello there\n hello you <|user|> <|end|>"
    return BPETokenizer.train([text], 300, progress=False).with_special_tokens(ROLE_TOKENS)


def test_the_standard_template_by_hand(tokenizer: BPETokenizer) -> None:
    special, plain = tokenizer.special_tokens, tokenizer.encode_ordinary
    template = ChatTemplate(standard_template(tokenizer), tokenizer)
    texts = ["\n be brief<|end|>", " hello\n<|assistant|>", "\n\nhow<|user|>"]
    roles = ["system", "user", "assistant"]
    messages = [{"role": r, "content": text} for r, text in zip(roles, texts, strict=True)]
    expected: list[tuple[int, bool]] = [(special["<|endoftext|>"], False)]
    for role, text in zip(roles, texts, strict=True):
        expected.append((special[f"<|{role}|>"], False))
        expected += [(i, role == "assistant") for i in [*plain(text), special["<|end|>"]]]
    ids, mask = template.encode_with_mask(messages)
    assert list(zip(ids, mask, strict=True)) == expected
    assert template.encode(messages) == [*ids, special["<|assistant|>"]]
    with pytest.raises(UserError, match="a role is tool: expected system, user or assistant"):
        template.encode([{"role": "tool", "content": "a"}])


def test_new_role_tokens_play_their_roles(tokenizer: BPETokenizer) -> None:
    chars = CharTokenizer(["a", "b"], ["<unk>"]).with_special_tokens(["<|endoftext|>", "<|end|>"])
    assert chars.special_tokens == {"<unk>": 2, "<|endoftext|>": 3, "<|end|>": 4}
    assert chars.stop_tokens == {3, 4}
    assert (chars.role_id("pad"), chars.role_id("unk")) == (3, 2)
    again = tokenizer.with_special_tokens(["<|im_end|>"])  # now it ends a turn
    special = again.special_tokens
    assert again.roles.end_of_turn == "<|im_end|>"
    assert again.stop_tokens == {special[n] for n in ("<|im_end|>", "<|end|>", "<|endoftext|>")}
    text = "hello <|im_end|> you"
    assert again.encode_ordinary(text) == tokenizer.encode_ordinary(text)
    with pytest.raises(UserError, match=r"has a token .* already"):
        tokenizer.with_special_tokens(["<|end|>"])
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
