"""Which tokens begin a text, end it, pad it or end a turn: settings of a tokenizer, not spellings.

They are stored in `tokenizer_config.json`, where `transformers` looks for them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptfast.errors import UserError
from gptfast.tokenizer.added import AddedToken, special
from gptfast.tokenizer.checks import check_kind, check_names

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Roles:
    """The names of the tokens that play a role; None where none does.

    bos: begins a text. eos: follows each document; sampling stops at it. pad: fills up the shorter
    texts of a batch. unk: stands for what can't be encoded. end_of_turn: ends a message of a
    dialogue; sampling stops at it, too. stop: further tokens at which sampling stops.

    A tokenizer takes eos for bos and pad if they are None, as GPT-2's does.
    """

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    end_of_turn: str | None = None
    stop: tuple[str, ...] = ()

    def one_each(self) -> dict[str, str | None]:
        """Return the names of the roles that at most one token plays: all but `stop`."""
        return {role: getattr(self, role) for role in _KEYS}


# Well-known names by role, by which a bare `tokenizer.json` is understood. A tokenizer that has two
# names of the same role leaves the role open.
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
"""The keys of these roles in tokenizer_config.json; `transformers` knows all but the last."""
_STOP_KEY = "stop"


def recognized(names: Collection[str]) -> Roles:
    """Return the roles of special tokens by their well-known names."""
    found = {role: [n for n in known if n in names] for role, known in _WELL_KNOWN.items()}
    only: dict[str, Any] = {role: names[0] for role, names in found.items() if len(names) == 1}
    return _filled(replace(Roles(), **only))


def with_names(roles: Roles, names: Collection[str]) -> Roles:
    """Return the roles of a tokenizer to which these names are added.

    A new name that is known to end a turn does so. The token that did becomes a stop. The other
    roles are given only if they are open.
    """
    new = recognized(names)
    is_turned = new.end_of_turn is not None and roles.end_of_turn is not None
    return Roles(
        bos=roles.bos or new.bos,
        eos=roles.eos or new.eos,
        pad=roles.pad or new.pad,
        unk=roles.unk or new.unk,
        end_of_turn=new.end_of_turn or roles.end_of_turn,
        stop=(*roles.stop, str(roles.end_of_turn)) if is_turned else roles.stop,
    )


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
    check_names("stop", roles.stop)
    names = [token.name for token in tokens]
    played = [*roles.one_each().items(), *(("stop", name) for name in roles.stop)]
    for role, name in played:
        if name is not None and name not in names:
            raise UserError(
                f"{role} is {name!r}: expected one of the special tokens {sorted(names)}, or None"
            )
    return _filled(replace(roles, stop=tuple(roles.stop)))


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
        **{_KEYS[role]: n for role, n in roles.one_each().items() if role != "end_of_turn"},
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if roles.end_of_turn is not None:
        content[_KEYS["end_of_turn"]] = roles.end_of_turn
    if roles.stop:
        content[_STOP_KEY] = list(roles.stop)
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
    else by well-known names. If eos has several ids, all are stops. Warns of each that is left out,
    because the tokenizer has no such added token.
    """
    names, ids = names_beside(folder), _ids_beside(folder)
    name_of = {token.id: token.name for token in tokens}
    by_id = {role: [name_of[i] for i in ids.get(role, []) if i in name_of] for role in _KEYS}
    well_known = recognized(special(tokens)).one_each()
    for role in _KEYS:
        if role not in names:
            # Models of dialogues list several ends, of which one ends a turn.
            ends = [name for name in by_id[role] if name not in _WELL_KNOWN["end_of_turn"]]
            names[role] = next(iter(ends or by_id[role]), well_known[role])
    stop = _stops_beside(folder)
    has = set(name_of.values())
    for role, name in [*names.items(), *(("stop", name) for name in stop)]:
        if name is not None and name not in has:
            _warn_left_out(folder, f"{name!r} is named as {role}, but tokenizer.json has no such")
    for token_id in ids.get("eos", []) if len(ids.get("eos", [])) > 1 else []:
        if token_id not in name_of:
            _warn_left_out(folder, f"{token_id} is an id of eos, but of no")
    known = {role: name if name in has else None for role, name in names.items()}
    ends = [name for name in [*stop, *by_id["eos"]] if name in has]
    others = [name for name in ends if name not in (known["eos"], known["end_of_turn"])]
    return _filled(Roles(**known, stop=tuple(dict.fromkeys(others))))


def _warn_left_out(folder: Path, what: str) -> None:
    warnings.warn(f"{folder}: {what} added token: it is left out", stacklevel=3)


def _stops_beside(folder: Path) -> list[str]:
    listed = _read(folder / "tokenizer_config.json").get(_STOP_KEY)
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


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
