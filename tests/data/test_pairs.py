"""Pairs of answers: what is read, what is refused, and what a batch of them holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptfast.data.batch import IGNORED
from gptfast.data.pairs import PairSource, as_rows, open_pairs, pair_batch, read_pairs
from gptfast.errors import UserError
from gptfast.tokenizer import BPETokenizer
from gptfast.tokenizer.chat import ChatTemplate

TEMPLATE = (
    "<|endoftext|>{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NAMES = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    tokenizer = BPETokenizer.train("abc", 260, special_tokens=NAMES, progress=False)
    return ChatTemplate(TEMPLATE, tokenizer)


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def record(prompt: Any, chosen: Any = "yes", rejected: Any = "no") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_a_prompt_may_have_three_forms(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    instruction = {"instruction": "Add", "input": "1 2", "output": "3", "chosen": "3"}
    records = [record("q"), record(messages), {**instruction, "rejected": "4"}]
    pairs = read_pairs(write(tmp_path / "pairs.jsonl", records))
    assert [pair.messages[-1]["content"] for pair in pairs] == ["q", "q", "Add\n\n1 2"]
    assert [len(pair.messages) for pair in pairs] == [1, 2, 1]
    assert (pairs[2].chosen, pairs[2].rejected, pairs[2].line) == ("3", "4", 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, "line 2: expected 'prompt' or 'instruction'"),
        ({"prompt": "a", "chosen": "b"}, "line 2: .* 'rejected' is missing or no text"),
        (record("a", chosen=["b"]), "line 2: .* 'chosen' is missing or no text"),
        (record(3), "line 2: 'prompt' is not a string"),
        (record([]), "line 2: 'prompt' is not a list of at least one message"),
        (record([{"role": "assistant", "content": "a"}]), "line 2: the last message"),
        (record("a", "b", "b"), "line 2: 'chosen' and 'rejected' are the same"),
    ],
)
def test_other_records_are_refused_with_their_line(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "pairs.jsonl", [record("q"), wrong])
    with pytest.raises(UserError, match=message):
        read_pairs(path)


def test_only_the_last_answer_and_its_end_are_targets(
    template: ChatTemplate, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    path = write(tmp_path / "pairs.jsonl", [record(turns, "yes", "n"), record("other")])
    pairs = open_pairs(path, path, 0.1, 0, template, 100)
    batch = pair_batch(pairs.train, [0])
    eot, user, assistant, end = (template.tokenizer.special_tokens[name] for name in NAMES)
    u, a, y, e, s, n = (ord(letter) for letter in "uayesn")
    prompt = [eot, user, u, end, assistant, a, end, user, u, end, assistant]
    assert batch.ids_BT[0].tolist() == [[*prompt, y, e, s, end], [*prompt, n, end, 0, 0]]
    before = [IGNORED] * (len(prompt) - 1)
    assert batch.targets_BT[0].tolist() == [
        [*before, y, e, s, end, IGNORED],
        [*before, n, end, *[IGNORED] * 3],
    ]
    assert batch.extras["lengths"].tolist() == [[15, 13]]
    two = as_rows(pair_batch(pairs.train, [1, 0]))
    assert two.ids_BT[2:].tolist() == batch.ids_BT[0].tolist()  # pair after pair, chosen first
    assert two.ids_BT[1, 8:12].tolist() == [assistant, n, ord("o"), end]
    assert two.extras["lengths"].tolist() == [13, 12, 15, 13]


def test_long_pairs_are_left_out_and_counted(template: ChatTemplate, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [record("q"), record("q", "no", "x" * 50)])
    pairs = open_pairs(path, path, 0.1, 0, template, 20)
    assert (len(pairs.train), len(pairs.val), pairs.n_left_out) == (1, 1, 2)
    assert "2 left out, longer than the context of 20 ids" in pairs.describe(20)
    with pytest.raises(UserError, match="no pair fits into the context of 8 ids"):
        open_pairs(path, path, 0.1, 0, template, 8)


def test_a_prompt_is_on_one_side_of_the_split(template: ChatTemplate, tmp_path: Path) -> None:
    records = [record(f"Question {i % 7}", "yes", f"no {i}") for i in range(50)]
    path = write(tmp_path / "pairs.jsonl", records)
    pairs = open_pairs(path, None, 0.3, 0, template, 100)
    prompts = [{tuple(pair.ids[0]) for pair in part} for part in (pairs.train, pairs.val)]
    assert not prompts[0] & prompts[1]
    assert len(prompts[0]) + len(prompts[1]) == 7


def test_every_epoch_has_each_pair_once_and_resumes(template: ChatTemplate, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [record(f"{i}") for i in range(7)])
    pairs = open_pairs(path, path, 0.1, 0, template, 100)
    source = PairSource(pairs, batch_size=3, seed=1, made_of=["a"])
    drawn = [source.next_batch().extras["index"].tolist() for _ in range(7)]
    order = [i for batch in drawn for i in batch]
    assert all(sorted(order[k : k + 7]) == list(range(7)) for k in (0, 7, 14))
    assert order[:7] != order[7:14]
    later = PairSource(pairs, batch_size=3, seed=1, made_of=["a"])
    later.load_state_dict({"drawn": 3})
    assert later.next_batch().extras["index"].tolist() == drawn[3]
    assert source.fingerprint == later.fingerprint
    assert source.fingerprint != PairSource(pairs, 3, 1, ["b"]).fingerprint


def test_a_conversation_ends_with_its_answer_whatever_the_template_writes_then(
    template: ChatTemplate, tmp_path: Path
) -> None:
    """As ChatML, which ends with a line break. A sampled answer has none."""
    chatml = TEMPLATE.replace("{% endgeneration %}", "{% endgeneration %}{{ '\\n' }}")
    data = write(tmp_path / "pairs.jsonl", [record("q"), record("r")])
    longer = ChatTemplate(chatml, template.tokenizer)
    plain, cut = (open_pairs(data, data, 0.5, 0, one, 64).train for one in (template, longer))
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]
    assert len(longer.encode_with_mask(messages)[0]) == len(plain[0].ids[0]) + 1
    assert cut == plain


def test_val_pairs_with_a_prompt_that_is_trained_on_are_counted(
    template: ChatTemplate, tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", [record(f"q{i}") for i in range(9)])
    val = write(tmp_path / "val.jsonl", [record(" Q3", "maybe"), record("new"), record("q8")])
    sets = open_pairs(data, val, 0.5, 0, template, 64)
    assert sets.describe(64).endswith("; 2 val pairs have a prompt that is trained on, too")
    assert open_pairs(data, None, 0.5, 0, template, 64).n_shared == 0
