"""Each family's `tokenizer.json`: its parts as published, on a small vocabulary trained here.

`PUBLISHED_PARTS` has a function for each family whose file no package of the index carries, or only
a large one. `built(name)` is its file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from family_text import every_script, strings
from tokenizers import trainers

Json = dict[str, Any]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}"
QWEN2 = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}"
QWEN3_5 = (
    rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NANOCHAT = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|\p{{N}}{{1,2}}|{REST}"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = (
    r"[\p{Han}]+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+{CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]+[{LOWER}&&[^\p{{Han}}]]*{CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}|{REST}"
)
DEEPSEEK_LATIN = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽ"
    "Ა-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼ"
    "ℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def byte_level(use_regex: bool = True, trim: bool = True, prefix: bool = False) -> Json:
    return {
        "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim,
        "use_regex": use_regex,
    }  # fmt: skip


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(kind: str, *parts: Json) -> Json:
    return {"type": "Sequence", kind: list(parts)}


def pre(*parts: Json) -> Json:
    return sequence("pretokenizers", *parts)


def digits(each: bool = True) -> Json:
    return {"type": "Digits", "individual_digits": each}


def added(name: str, *, special: bool = True, **flags: bool) -> Json:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"content": name, **usual, **flags, "special": special}


def template(*around: str) -> Json:
    """The names around a text; "$A" stands for the text. `ids` are put in with the vocabulary."""
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}} if name == "$A"
        else {"SpecialToken": {"id": name, "type_id": 0}}
        for name in around
    ]  # fmt: skip
    names = [name for name in around if name != "$A"]
    tokens = {name: {"id": name, "ids": [0], "tokens": [name]} for name in names}
    pair = [*pieces, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": tokens}


ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPACES = [added(" " * n, special=False, normalized=True) for n in range(24, 1, -1)]
TABS = [added("\t" * n, special=False, normalized=True) for n in range(9, 1, -1)]
LLAMA_NAMES = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"]


def gpt2() -> Json:
    return {"pre_tokenizer": byte_level(), "added_tokens": [added(ENDS[0])]}


def roberta() -> Json:
    return {
        "pre_tokenizer": byte_level(),
        "post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", 0], "cls": ["<s>", 0],
            "trim_offsets": True, "add_prefix_space": False,
        },
        "added_tokens": [
            *(added(name, normalized=True) for name in ("<s>", "<pad>", "</s>", "<unk>")),
            added("<mask>", lstrip=True),
        ],
    }  # fmt: skip


def llama3() -> Json:
    return {
        "pre_tokenizer": pre(split(LLAMA3), byte_level(use_regex=False)),
        "post_processor": sequence(
            "processors", byte_level(trim=False, prefix=True), template(LLAMA_NAMES[0], "$A")
        ),
        "added_tokens": [added(name) for name in LLAMA_NAMES],
        "model": {"ignore_merges": True},
    }


def llama4() -> Json:
    return llama3() | {"pre_tokenizer": pre(split(O200K), byte_level(use_regex=False))}


def qwen2() -> Json:
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": pre(split(QWEN2), byte_level(use_regex=False, trim=False)),
        "post_processor": byte_level(use_regex=False, trim=False),
        "added_tokens": [*map(added, ENDS), added("<think>", special=False)],
        "model": {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
    }


def qwen3_5() -> Json:
    return qwen2() | {"pre_tokenizer": pre(split(QWEN3_5), byte_level(False, trim=False))}


def deepseek_v2() -> Json:
    marks = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
    return {
        "normalizer": sequence("normalizers"),
        "pre_tokenizer": pre(
            split("[\r\n]"), split(rf"\s?[{DEEPSEEK_LATIN}]+"), split(marks), split(r"\s+$"),
            split("[一-龥ࠀ-一가-퟿]+"), digits(), byte_level(use_regex=False),
        ),
        "post_processor": byte_level(trim=False, prefix=True),
        "decoder": byte_level(prefix=True),
        "added_tokens": [
            added(f"<｜{name}▁of▁sentence｜>", normalized=True) for name in ("begin", "end")
        ],
    }  # fmt: skip


def deepseek_v3() -> Json:
    line = "\r\n"  # the characters themselves
    words = (
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
        rf"|[^{line}\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[{line}]*"
        rf"|\s*[{line}]+|\s+(?!\S)|\s+"
    )
    names = [f"<｜{name}▁of▁sentence｜>" for name in ("begin", "end")]
    return deepseek_v2() | {
        "pre_tokenizer": pre(
            split(r"\p{N}{1,3}"),
            split("[一-龥぀-ゟ゠-ヿ]+"),
            split(words),
            byte_level(use_regex=False),
        ),
        "added_tokens": [
            *map(added, names), added("<｜User｜>", special=False, normalized=True)
        ],
    }  # fmt: skip


def starcoder2() -> Json:
    return {
        "pre_tokenizer": pre(digits(), byte_level()),
        "added_tokens": [added("<|endoftext|>"), added("<fim_prefix>"), added("<file_sep>")],
    }


def smollm2() -> Json:
    return starcoder2() | {"added_tokens": [*map(added, ENDS)]}


def smollm3() -> Json:
    return llama3() | {"added_tokens": [*map(added, LLAMA_NAMES), added("<think>", special=False)]}


def pythia() -> Json:
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level(),
        "post_processor": byte_level(),
        "added_tokens": [added("<|endoftext|>"), added("<|padding|>"), *SPACES],
    }


def phi2() -> Json:
    return {"pre_tokenizer": byte_level(), "added_tokens": [added(ENDS[0]), *SPACES, *TABS]}


def phi4() -> Json:
    return {
        "pre_tokenizer": pre(
            split(LLAMA3.replace("?\\p{L}+", "?\\p{L}+"), "Removed", invert=True),
            byte_level(use_regex=False),
        ),
        "added_tokens": [
            *(added(name, lstrip=True, rstrip=True) for name in ENDS), added("<|dummy_0|>")
        ],
    }  # fmt: skip


def modernbert() -> Json:
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level(),
        "post_processor": template("[CLS]", "$A", "[SEP]"),
        "added_tokens": [
            added("|||IP_ADDRESS|||", special=False, normalized=True), *SPACES,
            added("[UNK]"), added("[CLS]"), added("[SEP]"), added("[PAD]"),
            added("[MASK]", lstrip=True), added("[unused0]", special=False, normalized=True),
        ],
    }  # fmt: skip


def falcon() -> Json:
    return {
        "pre_tokenizer": pre(
            {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(), digits(each=False),
            split("[0-9][0-9][0-9]"),
        ),
        "post_processor": byte_level(trim=False),
        "added_tokens": [added(">>TITLE<<"), added(">>ABSTRACT<<"), added("<|endoftext|>")],
    }  # fmt: skip


def bloom() -> Json:
    return {
        "pre_tokenizer": pre(split(BLOOM), byte_level(use_regex=False)),
        "post_processor": byte_level(trim=False),
        "added_tokens": [added(name) for name in ("<unk>", "<s>", "</s>", "<pad>")],
    }


def glm4() -> Json:
    names = ["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>"]
    return llama3() | {
        "post_processor": sequence(
            "processors", byte_level(trim=False, prefix=True), template("[gMASK]", "<sop>", "$A")
        ),
        "added_tokens": [added(name) for name in names],
    }


def gpt_oss() -> Json:
    names = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|message|>"]
    return {
        "pre_tokenizer": pre(split(O200K), byte_level(use_regex=False)),
        "post_processor": template("$A"),
        "added_tokens": [added(name) for name in names],
        "model": {"ignore_merges": True},
    }


def minimax() -> Json:
    return gpt_oss() | {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": pre(split(O200K, "Removed", invert=True), byte_level(use_regex=False)),
        "model": {"ignore_merges": False},
    }


def claude() -> Json:
    return {
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": byte_level(),
        "added_tokens": [added("<EOT>"), added("<META>")],
    }


def prefixed() -> Json:
    """Longformer's and BART's files of old: GPT-2's with a space before each text."""
    return roberta() | {"pre_tokenizer": byte_level(prefix=True)}


BYTE_FALLBACK = {
    "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
}  # fmt: skip
UNDERSCORE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
TO_SPACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}


def llama2() -> Json:
    return {
        "normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, UNDERSCORE),
        "pre_tokenizer": None,
        "post_processor": template("<s>", "$A"),
        "decoder": sequence(
            "decoders", TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ),
        "added_tokens": [added("<unk>"), added("<s>"), added("</s>")],
        "model": BYTE_FALLBACK,
    }  # fmt: skip


def llama2_metaspace() -> Json:
    """The same as transformers writes it with legacy=False."""
    return llama2() | {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
        },
    }  # fmt: skip


def phi3() -> Json:
    names = [added("<unk>"), added("<s>"), added("</s>", rstrip=True, special=False)]
    ends = [added(name, rstrip=True) for name in ("<|assistant|>", "<|end|>", "<|user|>")]
    return llama2() | {"added_tokens": [*names, added("<|endoftext|>"), *ends]}


def gemma() -> Json:
    runs = [added("\n" * n, special=False) for n in range(2, 9)]
    spaces = [added("▁" * n, special=False) for n in range(2, 9)]
    return {
        "normalizer": UNDERSCORE,
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": template("<bos>", "$A"),
        "decoder": sequence("decoders", TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}),
        "added_tokens": [
            *(added(name) for name in ("<pad>", "<eos>", "<bos>", "<unk>")), *runs, *spaces,
            added("<table>", special=False), added("<start_of_turn>"),
        ],
        "model": BYTE_FALLBACK,
    }  # fmt: skip


PUBLISHED_PARTS: dict[str, Callable[[], Json]] = {
    family.__name__: family
    for family in (
        gpt2, roberta, prefixed, llama3, llama4, qwen2, qwen3_5, deepseek_v2, deepseek_v3,
        starcoder2, smollm2, smollm3, pythia, phi2, phi4, modernbert, falcon, bloom, glm4, gpt_oss,
        minimax, claude, llama2, llama2_metaspace, phi3, gemma,
    )
}  # fmt: skip


@cache
def corpus() -> list[str]:
    """What the vocabularies are learned from."""
    english = (
        "The quick brown fox doesn't jump over 1234567 lazy dogs; it's HTTPServer's return x\n"
    )
    return [every_script(60_000, 1), english * 40, *strings(400, 2)]


def without_parts() -> Json:
    """A tokenizer.json that does nothing."""
    data: Json = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    return data


def built(name: str, vocab_size: int = 1500) -> Json:
    """Return the `tokenizer.json` of a family, whose vocabulary `tokenizers` learns."""
    return assembled(PUBLISHED_PARTS[name](), vocab_size)


def assembled(parts: Json, vocab_size: int) -> Json:
    parts = {"decoder": byte_level(), **parts}
    flags, listed = parts.pop("model", {}), parts.pop("added_tokens")
    is_byte_level = not flags.get("byte_fallback")
    data = without_parts()
    cut = {k: parts[k] for k in ("normalizer", "pre_tokenizer") if k in parts}
    learner = tokenizers.Tokenizer.from_str(json.dumps(data | cut))
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet() if is_byte_level else []
    names = [token["content"] for token in listed]
    fallback = [] if is_byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False,
        special_tokens=[*names, *fallback], limit_alphabet=700,
    )  # fmt: skip
    texts = corpus() if is_byte_level else [line for t in corpus() for line in t.split("\n")]
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"] | flags
    ids = model["vocab"]
    special = {token["content"] for token in listed if token["special"]}
    model["merges"] = [m for m in model["merges"] if not special & {*m, "".join(m)}]
    if model["ignore_merges"]:
        model["merges"] = all_merges(ids, {*names})
    parts = json.loads(json.dumps(parts))
    put_ids(parts.get("post_processor"), ids)
    listed = [{"id": ids[token["content"]], **token} for token in listed]
    return data | parts | {"added_tokens": listed, "model": model}


def all_merges(ids: dict[str, int], names: set[str]) -> list[list[str]]:
    """Return every way to split each token in two, as transformers converts rank files."""
    merges = []
    for token in sorted(ids.keys() - names, key=ids.__getitem__):
        pairs = [(token[:n], token[n:]) for n in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += [list(p) for p in sorted(known, key=lambda p: (ids[p[0]], ids[p[1]]))]
    return merges


def put_ids(processor: Json | None, ids: dict[str, int]) -> None:
    match processor:
        case {"type": "Sequence", "processors": members}:
            for member in members:
                put_ids(member, ids)
        case {"type": "TemplateProcessing", "special_tokens": names}:
            for name, entry in names.items():
                entry["ids"] = [ids[name]]
        case {"type": "RobertaProcessing"}:
            processor["sep"] = ["</s>", ids["</s>"]]
            processor["cls"] = ["<s>", ids["<s>"]]


def on_gguf(name: str, path: Path) -> Json:
    """Return the `tokenizer.json` of a family on the vocabulary of a GGUF file."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens, types, merges = (
        fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges")
    )
    ids = {token: i for i, token in enumerate(tokens) if types[i] != gguf.TokenType.UNUSED}
    parts = {"decoder": byte_level(), **PUBLISHED_PARTS[name]()}
    data, flags, listed = without_parts(), parts.pop("model", {}), parts.pop("added_tokens")
    flags_of = {token["content"]: token for token in listed if token["content"] in ids}
    known = {token: added(token) for token, i in ids.items() if types[i] == gguf.TokenType.CONTROL}
    put_ids(parts.get("post_processor"), ids)
    model = data["model"] | flags
    model |= {"vocab": ids, "merges": [merge.split(" ", 1) for merge in merges]}
    listed = [{"id": ids[token], **entry} for token, entry in (known | flags_of).items()]
    listed.sort(key=lambda token: int(token["id"]))
    return data | parts | {"added_tokens": listed, "model": model}
