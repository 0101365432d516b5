"""How much texts repeat themselves, by hand and by brute force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import TEXTS

from gptfast.cli import cli
from gptfast.eval.__main__ import main
from gptfast.eval.repetition import measures, stretches
from gptfast.sample.repetition import distinct, longest_repeat, seq_rep


def test_measures_by_hand() -> None:
    text = [1, 2, 1, 2, 1, 3]
    assert distinct([text], 1) == 3 / 6
    assert distinct([text], 2) == 3 / 5  # 12 21 12 21 13
    assert distinct([text], 3) == 3 / 4  # 121 212 121 213
    assert distinct([[1, 2], [2, 1]], 2) == 1.0  # no pair crosses from one text into the next
    assert distinct([[1, 2], [1, 2]], 2) == 1 / 2
    assert distinct([[1]], 2) == 1.0
    # Of the 5 runs of 4 ids in 12341234, 1234 comes twice.
    assert seq_rep([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(1 - 4 / 5)
    assert seq_rep([7] * 8, 4) == pytest.approx(1 - 1 / 5)
    assert seq_rep(list(range(8)), 4) == 0
    assert longest_repeat(text) == 3  # 121, which overlaps with itself
    assert longest_repeat([1, 2, 3]) == 0
    assert longest_repeat([5, 1, 2, 9, 1, 2, 5]) == 2
    found = measures([[7] * 8, list(range(8))])
    assert found["seq_rep_4"] == pytest.approx((4 / 5 + 0) / 2)
    assert found["longest_repeat"] == (7 + 0) / 2
    assert found["distinct_1"] == 8 / 16


@given(st.lists(st.integers(0, 2), max_size=14))
def test_the_longest_repeat_is_that_of_a_brute_force_search(text: list[int]) -> None:
    n = len(text)
    spans = (
        length
        for length in range(n - 1, 0, -1)
        if len({tuple(text[i : i + length]) for i in range(n - length + 1)}) < n - length + 1
    )
    assert longest_repeat(text) == next(spans, 0)


def test_stretches_are_spread_and_do_not_overlap() -> None:
    documents = [list(range(10)), [99], list(range(100, 125))]
    assert stretches(documents, 5, 3) == [
        [0, 1, 2, 3, 4], [105, 106, 107, 108, 109], [120, 121, 122, 123, 124],
    ]  # fmt: skip
    everything = stretches(documents, 5, 100)
    assert len(everything) == 2 + 5
    assert len({i for stretch in everything for i in stretch}) == 35


def test_the_command_repeats_with_a_seed_and_shows_the_spread_of_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("<|endoftext|>".join(TEXTS), encoding="utf-8")
    small = ["--samples", "2", "--sets", "3", "--prompt-tokens", "4", "--sample-tokens", "20"]
    given = [str(folder), "--text", str(text), "--repetition", *small]
    results = []
    for seed in ("1", "1", "7"):
        assert cli.run(main, [*given, "--seed", seed, "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out)["repetition"])
    assert results[0] == results[1]
    # Sets have seeds of their own: 1 to 6, and 7 to 12.
    assert results[0]["model"] != results[2]["model"]
    assert len(set(results[0]["model"]["distinct_1"])) > 1
    assert results[0]["text"] == results[2]["text"]
    # The same set of samples, however many sets are written: 3 and 4 are seeds of the second.
    assert cli.run(main, [*given, "--seed", "3", "--sets", "2", "--json"]) == 0
    later = json.loads(capsys.readouterr().out)["repetition"]["model"]["distinct_1"]
    assert later == results[0]["model"]["distinct_1"][1:]
    assert cli.run(main, given) == 0
    said = capsys.readouterr().out
    assert "a single seed proves nothing" in said
    assert "seeds 1337 to 1342" in said
    greedy = [*given, "--temperature", "0", "--json"]
    assert cli.run(main, greedy) == 0
    sets = json.loads(capsys.readouterr().out)["repetition"]["model"]["seq_rep_4"]
    assert len(set(sets)) == 1
