"""Read a model folder as a user of `transformers` does, with whichever version is installed.

`python as_transformers.py FOLDER TEXT` prints what `read` returns, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def read(folder: Path, text: str) -> dict[str, Any]:
    """What AutoTokenizer makes of a folder, and of a copy that it saved."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer(text)["input_ids"]
    with tempfile.TemporaryDirectory() as copy:
        tokenizer.save_pretrained(copy)
        (Path(copy) / "config.json").write_bytes((folder / "config.json").read_bytes())
        of_copy = AutoTokenizer.from_pretrained(copy)(text)["input_ids"]
    config = AutoConfig.from_pretrained(str(folder))
    found: dict[str, Any] = {
        "ids": ids,
        "ids of a copy": of_copy,
        "text": tokenizer.decode(ids),
        "length": len(tokenizer),
        "rows": config.vocab_size,
        "longest": tokenizer.model_max_length,
    }
    for role in ("bos", "eos", "pad"):
        found[role] = getattr(tokenizer, f"{role}_token")
    found["eos id"] = [tokenizer.eos_token_id, config.eos_token_id]
    if tokenizer.pad_token is not None:
        batch = tokenizer(["a", text[:20]], padding=True)
        found["lengths"] = [len(row) for row in batch["input_ids"]]
        found["masked"] = sum(batch["attention_mask"][0])
        found["inputs"] = sorted(batch)
    return found


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]), sys.argv[2])))
