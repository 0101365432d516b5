"""Published rank files, and what they leave out: the pattern and the special tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gptfast.tokenizer.roles import END_OF_TEXT


@dataclass(frozen=True)
class KnownRanks:
    """A published encoding: its rank file, and what that does not contain."""

    file: str
    """The name under which the file was published."""
    sha256: str
    pattern: str
    special_tokens: dict[str, int]
    normalizer: dict[str, Any] | None = None
    """The normalizer, as in a `tokenizer.json`."""


_NFC = {"type": "NFC"}
_GPT2 = KnownRanks(
    "r50k_base.tiktoken",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "gpt2",
    {END_OF_TEXT: 50256},
)
# GPT-2's ranks, and runs of spaces from 50,257 on.
_P50K = KnownRanks(
    "p50k_base.tiktoken",
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "gpt2",
    {END_OF_TEXT: 50256},
)
_O200K = KnownRanks(
    "o200k_base.tiktoken",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "o200k",
    {END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
)
_FILL_IN = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
_HARMONY = {
    "<|startoftext|>": 199998, "<|return|>": 200002, "<|constrain|>": 200003,
    "<|channel|>": 200005, "<|start|>": 200006, "<|end|>": 200007, "<|message|>": 200008,
    "<|call|>": 200012,
}  # fmt: skip


def _with_reserved(special_tokens: dict[str, int]) -> dict[str, int]:
    """Return the special tokens of harmony, which has a name for every id up to 201,087.

    tiktoken also calls 200018 `<|reserved_200018|>`. An id has one name here: `<|endofprompt|>`.
    """
    named = special_tokens | _HARMONY
    reserved = set(range(200_000, 201_088)).difference(named.values())
    return named | {f"<|reserved_{token_id}|>": token_id for token_id in sorted(reserved)}


PUBLISHED = {
    "gpt2": _GPT2,
    "r50k_base": _GPT2,
    "p50k_base": _P50K,
    "p50k_edit": KnownRanks(
        _P50K.file,
        _P50K.sha256,
        _P50K.pattern,
        {END_OF_TEXT: 50256} | dict(zip(_FILL_IN, range(50281, 50284), strict=True)),
    ),
    "cl100k_base": KnownRanks(
        "cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        "cl100k",
        {
            END_OF_TEXT: 100257,
            **dict(zip(_FILL_IN, range(100258, 100261), strict=True)),
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": _O200K,
    "o200k_harmony": replace(_O200K, special_tokens=_with_reserved(_O200K.special_tokens)),
}
"""The encodings that tiktoken publishes, by name. Several have the same ranks."""


def _numbered(names: list[str], first_id: int) -> dict[str, int]:
    return {name: first_id + i for i, name in enumerate(names)}


def _reserved(kind: str, start: int, end: int) -> list[str]:
    return [f"<|{kind}reserved_special_token_{i}|>" for i in range(start, end)]


# Source: llama_models 0.3.0, llama3/tokenizer.py.
_LLAMA_3 = [
    "<|begin_of_text|>", "<|end_of_text|>", *_reserved("", 0, 2), "<|finetune_right_pad_id|>",
    "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>", "<|image|>", *_reserved("", 2, 246),
]  # fmt: skip
# Source: llama_models 0.3.0, llama4/tokenizer.py.
_LLAMA_4 = [
    "<|begin_of_text|>", "<|end_of_text|>", *_FILL_IN,
    "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>",
    *_reserved("text_post_train_", 0, 6), "<|python_start|>", "<|python_end|>",
    "<|finetune_right_pad|>", *_reserved("text_post_train_", 8, 69),
    "<|image_start|>", "<|image_end|>", *_reserved("vision_", 0, 2), "<|tile_x_separator|>",
    "<|tile_y_separator|>", *_reserved("vision_", 2, 6), "<|image|>", *_reserved("vision_", 6, 7),
    "<|patch|>", *_reserved("vision_", 7, 1048),
    *_reserved("reasoning_", 0, 8), "<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>",
]  # fmt: skip
_CHATML = [END_OF_TEXT, "<|im_start|>", "<|im_end|>"]
# Source: qwen_tokenizer 0.3.0, qwen_tokenizer.py, for both of Qwen's.
_QWEN_3_5 = [
    *_CHATML, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", *_FILL_IN, "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
    "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>",
    "<tts_text_bos_single>", "<|audio_pad|>",
]  # fmt: skip

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_REST_AND_MARKS = rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"

OF_MODELS = [
    KnownRanks(
        "tokenizer.model",
        "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
        _numbered(_LLAMA_3, 128_000),
    ),
    KnownRanks(
        "tokenizer.model",
        "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed",
        "o200k",
        _numbered([*_LLAMA_4, *_reserved("", 0, 2048 - len(_LLAMA_4))], 200_000),
    ),
    KnownRanks(
        "qwen.tiktoken",
        "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",
        _numbered([*_CHATML, *(f"<|extra_{i}|>" for i in range(205))], 151_643),
        _NFC,
    ),
    KnownRanks(
        "qwen3_6.tiktoken",
        "8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd",
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|{_REST_AND_MARKS}",
        _numbered(_QWEN_3_5, 248_044),
        _NFC,
    ),
]
"""The rank files of Llama 3, Llama 4, Qwen and Qwen 3.5, which their models come with."""
