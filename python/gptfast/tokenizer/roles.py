"""Which tokens begin a text, end it, pad it or end a turn: settings of a tokenizer, not spellings.

They are stored in `tokenizer_config.json`, where `transformers` looks for them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.added import AddedToken, special
from gptfast.tokenizer.checks import check_kind

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Roles:
    """The names of the tokens that play a role; None where none does.

    bos: begins a text. eos: follows each document; sampling stops at it. pad: fills up the shorter
    texts of a batch. unk: stands for what can't be encoded. end_of_turn: ends a message of a
    dialogue; sampling stops at it, too.

    A tokenizer takes eos for bos and pad if they are None, as GPT-2's does.
    """

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    end_of_turn: str | None = None


# The names by which a bare `tokenizer.json` is understood, each where only one of its row is there.
_WELL_KNOWN = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),
    "eos": (
        END_OF_TEXT, "</s>", "<eos>", "<EOS>", "[EOS]", "<|eos|>", "<|end_of_text|>",
        "<|end_of_document|>", "<｜end▁of▁sentence｜>",
    ),
    "pad": ("<pad>", "<|pad|>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
    "end_of_turn": ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>"),
}  # fmt: skip
BOUNDARIES = (*_WELL_KNOWN["bos"], *_WELL_KNOWN["eos"], *_WELL_KNOWN["end_of_turn"])
"""Well-known names of the tokens between documents, or between messages."""
_KEYS = {
    "bos": "bos_token", "eos": "eos_token", "pad": "pad_token", "unk": "unk_token",
    "end_of_turn": "end_of_turn",
}  # fmt: skip
"""The keys of the roles in tokenizer_config.json; `transformers` knows all but the last."""


def recognized(names: Collection[str]) -> Roles:
    """Return the roles of special tokens by their well-known names."""
    found = {role: [n for n in known if n in names] for role, known in _WELL_KNOWN.items()}
    return _filled(Roles(**{role: n[0] for role, n in found.items() if len(n) == 1}))


def roles_of_trained(names: Sequence[str]) -> Roles:
    """Return the roles of the special tokens that a tokenizer is trained with.

    `<|endoftext|>` is eos; without it, the only well-known name, or else the only special token.
    """
    roles = recognized(names)
    if END_OF_TEXT in names:
        return _filled(replace(roles, eos=END_OF_TEXT))
    return _filled(Roles(eos=names[0])) if len(names) == 1 and roles == Roles() else roles


def checked(roles: Roles | None, tokens: Sequence[AddedToken]) -> Roles:
    """Return the roles of a tokenizer with these added tokens; recognize them if None is given.

    Raises UserError if a role is played by a token that the tokenizer doesn't have.
    """
    if roles is None:
        return recognized(special(tokens))
    check_kind("roles", roles, Roles, "a Roles or None")
    names = [token.name for token in tokens]
    for role, name in vars(roles).items():
        if name is not None and name not in names:
            raise UserError(
                f"{role} is {name!r}: expected one of the special tokens {sorted(names)}, or None"
            )
    return _filled(roles)


def _filled(roles: Roles) -> Roles:
    return replace(roles, bos=roles.bos or roles.eos, pad=roles.pad or roles.eos)


# ---- files ---------------------------------------------------------------------------------------


def tokenizer_config(roles: Roles, max_length: int | None) -> str:
    """Return the contents of `tokenizer_config.json`, as `transformers` reads it.

    Its class takes the tokenizer from `tokenizer.json`. Without a class, `transformers` would take
    the one for the type of the model, which brings its own pattern and special tokens.
    """
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{_KEYS[role]: name for role, name in asdict(roles).items() if role != "end_of_turn"},
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if roles.end_of_turn is not None:
        content[_KEYS["end_of_turn"]] = roles.end_of_turn
    if max_length is not None:
        content["model_max_length"] = max_length
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def names_beside(folder: Path) -> dict[str, str | None]:
    """Return the roles that a folder's tokenizer_config.json or special_tokens_map.json names.

    A role is None if the file says so, and missing if it says nothing.
    """
    found: dict[str, str | None] = {}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        content = _read(folder / file)
        named = {role: content[key] for role, key in _KEYS.items() if key in content}
        for role, token in named.items():
            name = token.get("content") if isinstance(token, dict) else token
            if isinstance(name, str) or (name is None and role not in found):
                found[role] = found.get(role) or name
    return found


def roles_beside(folder: Path, tokens: Sequence[AddedToken]) -> Roles:
    """Return the roles that the files of a folder give to the tokens of its `tokenizer.json`.

    What `names_beside` leaves open is told by the ids in generation_config.json or config.json, and
    else by well-known names. Warns of tokens that the tokenizer doesn't have.
    """
    names = names_beside(folder)
    ids = _ids_beside(folder)
    name_of = {token.id: token.name for token in tokens}
    for role in (field.name for field in fields(Roles)):
        if role not in names:
            by_id = [name_of[i] for i in ids.get(role, []) if i in name_of]
            # Models of dialogues stop at several tokens.
            by_id = [n for n in by_id if n not in _WELL_KNOWN["end_of_turn"]] or by_id
            names[role] = by_id[0] if by_id else getattr(recognized(special(tokens)), role)
    known = set(name_of.values())
    for role, name in names.items():
        if name is not None and name not in known:
            warnings.warn(
                f"{folder}: {name!r} is named as {role}, but tokenizer.json has no such token: it "
                f"is left out",
                stacklevel=2,
            )
            names[role] = None
    return _filled(Roles(**names))


def _ids_beside(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file in ("generation_config.json", "config.json"):
        content = _read(folder / file)
        for role, key in _KEYS.items():
            ids = content.get(f"{key}_id")
            ids = [ids] if isinstance(ids, int) else ids
            if isinstance(ids, list):
                found.setdefault(role, [i for i in ids if isinstance(i, int)])
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, {} if there is no file. Raises UserError for anything else."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a JSON {type(content).__name__}: expected an object")
    return content
