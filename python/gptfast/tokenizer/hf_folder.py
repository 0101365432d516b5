"""A tokenizer's folder as `transformers` writes it: `tokenizer.json`, or the older files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptfast.errors import UserError
from gptfast.system.files import make_folder, write_text_atomically
from gptfast.tokenizer.added import AddedToken
from gptfast.tokenizer.checks import as_path, shorten
from gptfast.tokenizer.formats import read_tokenizer_json, tokenizer_json_path
from gptfast.tokenizer.patterns import pattern_to_json
from gptfast.tokenizer.roles import END_OF_TEXT, Roles, names_beside, tokenizer_config


def read_hf(path: str | Path) -> dict[str, Any]:
    """Return a `tokenizer.json`, or its equivalent of a folder's `vocab.json` and `merges.txt`.

    Raises MissingFileError if there is neither, UserError if a file holds something else.
    """
    folder = as_path("path", path)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if (folder / "tokenizer.json").is_file() or not (vocab.is_file() and merges.is_file()):
        return read_tokenizer_json(tokenizer_json_path(path))
    ids = read_tokenizer_json(vocab)
    # The first line is a comment with the version.
    try:
        lines = merges.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{merges} is not UTF-8 text (byte {error.start}): expected a merge on each line"
        ) from None
    pairs = [line for line in lines if line and not line.startswith("#version")]
    return {
        "added_tokens": _added_tokens(folder, ids),
        "pre_tokenizer": pattern_to_json("gpt2"),
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": ids, "merges": pairs},
    }


def _added_tokens(folder: Path, ids: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens that the files beside a `vocab.json` list, in order of id.

    Raises UserError if one of them has no id.
    """
    added: dict[str, dict[str, Any]] = {}
    if END_OF_TEXT in ids:
        added[END_OF_TEXT] = {"content": END_OF_TEXT, "id": ids[END_OF_TEXT]}
    if (folder / "added_tokens.json").is_file():
        roles = names_beside(folder).values()
        for name, token_id in read_tokenizer_json(folder / "added_tokens.json").items():
            added[name] = {"content": name, "id": token_id, "special": name in roles}
    if (folder / "tokenizer_config.json").is_file():
        # It also has the flags of the tokens.
        listed = read_tokenizer_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
        for key, token in listed.items() if isinstance(listed, dict) else ():
            content = token.get("content") if isinstance(token, dict) else None
            if not (isinstance(content, str) and key.isdecimal()):
                raise UserError(f"added_tokens_decoder has {shorten(token)}: expected a content")
            added[content] = token | {"id": int(key)}
    return sorted(added.values(), key=lambda token: AddedToken.from_json(token).id)


def write_vocab(folder: str | Path, data: dict[str, Any], roles: Roles) -> None:
    """Write `vocab.json`, `merges.txt` and a `tokenizer_config.json` that lists the added tokens.

    data: the `tokenizer.json`. These files say nothing of its other parts, so they are GPT-2's.
    Raises UserError if one is not, or if the files can't be written there.
    """
    model = {"ignore_merges": False, "byte_fallback": False, "unk_token": None}
    wanted: dict[str, Any] = {f"model.{key}": value for key, value in model.items()}
    wanted["normalizer"] = None
    given = {f"model.{key}": data["model"][key] for key in model} | {
        "normalizer": data["normalizer"]
    }
    wanted["pre_tokenizer"], given["pre_tokenizer"] = pattern_to_json("gpt2"), data["pre_tokenizer"]
    for key, value in wanted.items():
        if given[key] != value:
            raise UserError(
                f"{key} is {shorten(given[key])}, which vocab.json and merges.txt can't say: "
                f"expected {shorten(value)}; save a tokenizer.json instead"
            )
    folder = as_path("folder", folder)
    make_folder(folder)
    added = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in data["added_tokens"]
    }
    config = json.loads(tokenizer_config(roles, None))
    config |= {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": added}
    merges = [f"{left} {right}\n" for left, right in data["model"]["merges"]]
    for name, text in (
        ("vocab.json", json.dumps(data["model"]["vocab"], ensure_ascii=False) + "\n"),
        ("merges.txt", "".join(["#version: 0.2\n", *merges])),
        ("tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n"),
    ):
        write_text_atomically(folder / name, text)
