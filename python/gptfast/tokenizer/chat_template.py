"""The chat template of gptfast's own chat models.

Every content is between special tokens, and no plain text is beside it. So the ids of a content
are `encode_ordinary(content)`, whatever it begins or ends with.
"""

from __future__ import annotations

import json

from gptfast.errors import UserError
from gptfast.tokenizer.base import Tokenizer

SYSTEM, USER, ASSISTANT, END_OF_TURN = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
ROLE_TOKENS = (SYSTEM, USER, ASSISTANT, END_OF_TURN)
"""The special tokens that begin a message of each role, and the one that ends any message."""

_TEMPLATE = """\
{{- BORDER }}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {{- "<|assistant|>" }}
        {%- generation %}
            {{- message.content }}{{ "<|end|>" }}
        {%- endgeneration %}
    {%- elif message.role in ("system", "user") %}
        {{- "<|" + message.role + "|>" }}{{ message.content }}{{ "<|end|>" }}
    {%- else %}
        {{- raise_exception("a role is " + message.role + ": expected system, user or assistant") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|assistant|>" }}
{%- endif %}
"""


def standard_template(tokenizer: Tokenizer) -> str:
    """Return the Jinja of gptfast's template, for a tokenizer that has ROLE_TOKENS.

    A dialogue begins with the token that ends a document, so that it is a document of its own:
    `<|endoftext|><|user|>Hi<|end|><|assistant|>Hello<|end|>`. The assistant writes the content of
    its messages and their `<|end|>`. Raises UserError if the tokenizer lacks a token.
    """
    border = tokenizer.roles.eos
    missing = [name for name in ROLE_TOKENS if name not in tokenizer.special_tokens]
    if border is None or missing:
        lacks = ", ".join(missing) or "a token that ends a document, such as <|endoftext|>"
        raise UserError(f"the tokenizer has no {lacks}: expected special tokens for a chat")
    return _TEMPLATE.replace("BORDER", json.dumps(border, ensure_ascii=False))
