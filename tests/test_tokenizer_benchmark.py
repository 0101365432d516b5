"""The tokenizer benchmark shows no number for a wrong output, and its tables add up."""

from __future__ import annotations

import io
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from rich.console import Console
from tokenizers import Tokenizer

from gptfast.tokenizer.ranks import write_tiktoken

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from tokenizer_bench import report, worker
from tokenizer_bench.calls import Call, Unsupported, as_ids, joined_text, one_by_one
from tokenizer_bench.cases import make_case
from tokenizer_bench.inputs import Inputs, copy_text, pieces, short_strings
from tokenizer_bench.measures import rows_of
from tokenizer_bench.texts import KINDS, text_of
from tokenizer_bench.trainers import Trained
from tokenizer_bench.vocabularies import GPT2_PATTERN, VOCABULARIES, tokenizer_json
from tokenizer_bench.worker import Different, Job

TEXT = "Some words, don't they?  \n\n  Two 12 spaces \u00e9\u00e8 and 'sfu\n" * 40


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """A text and a vocabulary of bytes alone, in which a text's ids are its bytes."""
    monkeypatch.setattr(worker, "bind_threads", lambda threads: None)
    monkeypatch.setattr(worker, "SHORT_SECONDS", 0.0)
    made = Inputs(tmp_path)
    made.corpus.write_bytes(TEXT.encode())
    write_tiktoken(made.ranks, {bytes([i]): i for i in range(256)})
    np.save(tmp_path / "text.npy", np.frombuffer(TEXT.encode(), np.uint8).astype(np.uint32))
    return made


def entrant_that_encodes(ids: list[int]) -> type[Any]:
    class Entrant:
        def __init__(self, inputs: Inputs, threads: int) -> None:
            pass

        def encode(self) -> Call:
            return Call(lambda: ids, as_ids)

    return Entrant


def test_a_right_output_has_a_speed(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = list(TEXT.encode())
    monkeypatch.setitem(worker.ENTRANTS, "somebody", entrant_that_encodes(ids))
    reply = worker.run_job(Job("encode", "somebody", 1), inputs.folder)
    assert len(reply["seconds"]) == 1 + worker.WARM_CALLS
    assert reply["amount"] == len(TEXT.encode())


def test_one_wrong_id_and_there_is_no_speed(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = list(TEXT.encode())
    ids[70] += 1
    monkeypatch.setitem(worker.ENTRANTS, "somebody", entrant_that_encodes(ids))
    reply = worker.run_job(Job("encode", "somebody", 1), inputs.folder)
    assert list(reply) == ["refused"]
    assert f"position 70 it has {ids[70]}, expected {ids[70] - 1}" in reply["refused"]


def test_outputs_of_other_lengths_are_different() -> None:
    with pytest.raises(Different, match="it has 2 in all, expected 3"):
        worker.compare(np.array([1, 2]), np.array([1, 2, 3]))
    with pytest.raises(Different, match="it has 3 in all, expected 2"):
        worker.compare(b"abc", b"ab")
    worker.compare(b"abc", b"abc")


def test_the_same_ids_in_other_calls_are_different() -> None:
    call = one_by_one(lambda ids: bytes(ids).decode(), [[97, 98], [99]], joined_text)
    with pytest.raises(Different):
        worker.compare(call.result(call.run()), joined_text(["a", "bc"]))
    worker.compare(call.result(call.run()), joined_text([b"ab", b"c"]))


@pytest.mark.parametrize(
    ("n_vocab", "decoded", "why"),
    [
        (300, TEXT, None),
        (299, TEXT, "299 tokens: 300 were asked for"),
        (300, TEXT[:-1], "does not give a sample of the text back"),
    ],
)
def test_a_vocabulary_is_checked(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, n_vocab: int, decoded: str, why: str | None
) -> None:
    trained = Trained(n_vocab, None, lambda text: [0] * 10, lambda ids: decoded)
    monkeypatch.setitem(worker.TRAINERS, "somebody", lambda *_: Call(dict, lambda _: trained))
    reply = worker.run_job(Job("train", "somebody", 1, vocab_size=300), inputs.folder)
    if why is None:
        assert reply["bytes_per_token"] == len(TEXT.encode()) / 10
        assert reply["rss_peak"] >= reply["rss_before"] > 1_000_000
    else:
        assert list(reply) == ["refused"]
        assert why in reply["refused"]


def run_of(who: str, round_number: int, *seconds: float, threads: int = 1, **job: Any) -> Any:
    reply = {"seconds": list(seconds), "amount": 8_000_000, "rss_before": 1, "rss_peak": 4_000_000}
    fields = {"group": "encode", "task": "encode", "vocab_size": 32_768, "fraction": 1.0}
    fields |= {"pattern": "gpt2", "case": "", **job}
    return {**fields, "who": who, "round": round_number, "threads": threads, "reply": reply}


def test_ratios_are_of_each_round() -> None:
    runs = [
        run_of("gptfast", 0, 2.0, 1.0),
        run_of("gigatoken", 0, 4.0, 4.0),  # 4 times
        run_of("gptfast", 1, 20.0, 10.0, 12.0, 11.0),
        run_of("gigatoken", 1, 20.0, 11.0),  # once
        run_of("gptfast", 2, 2.0, 2.0),
        run_of("gigatoken", 2, 2.0, 2.4),  # 1.2 times
    ]
    (warm,) = rows_of("encode", runs)
    assert warm.ratios("gigatoken") == [4.0, 1.0, 1.2]
    (cold,) = rows_of("first", [{**run, "group": "first", "case": "first-8"} for run in runs])
    assert cold.ratios("gigatoken") == [2.0, 1.0, 1.0]
    assert cold.title == "8 MB, first call, 1 thread"
    shown = printed(lambda console: report.print_rows("encode", [cold, warm], console))
    gigatoken_warm = next(line for line in reversed(shown) if "gigatoken" in line)
    # 8 MB in 2.4, 4 and 11 seconds
    assert gigatoken_warm.split() == [
        *("gigatoken", "2.0", "3.3", "..", "0.7"),
        *("1.20", "(1.00", "..", "4.00)", "1.5", "missed"),
    ]


def test_a_target_is_met_by_the_median() -> None:
    runs = [run_of("gptfast", 0, 1.0, 1.0), run_of("gigatoken", 0, 2.0, 2.0)]
    rows = rows_of("encode", runs)
    shown = printed(lambda console: report.print_targets(rows, {}, console))
    assert [line.split()[-1] for line in shown if "gigatoken" in line] == ["met"]


def test_whoever_was_refused_once_is_in_no_row() -> None:
    refused = {**run_of("tokie", 1), "reply": {"refused": "at position 5"}}
    runs = [run_of("gptfast", 0, 1.0, 1.0), run_of("tokie", 0, 1.0, 1.0), refused]
    for row in rows_of("encode", runs):
        assert list(row.samples) == ["gptfast"]
        assert row.ratios("tokie") == []


def test_the_best_rival_is_found_by_its_median() -> None:
    runs = [
        run_of("gptfast", 0, 1.0, 1.0, group="chat", task="chat_lists", threads=2),
        run_of("tiktoken", 0, 9.0, 9.0, group="chat", task="chat_lists", threads=2),
        run_of("splintr", 0, 1.0, 1.6, group="chat", task="chat_lists", threads=2),
    ]
    (row,) = rows_of("chat", runs)
    assert row.targets == {"splintr": 1.5}
    assert row.ratios("splintr") == [1.6]


def test_whoever_is_slow_has_one_round() -> None:
    runs = [run_of("gptfast", 0, 1.0, 1.0), run_of("tokenizers", 0, 30.0, 30.0)]
    (row,) = rows_of("encode", [*runs, run_of("gptfast", 1, 1.0, 2.0)])
    assert row.ratios("tokenizers") == [30.0]


def test_another_script_is_beside_english() -> None:
    def run(kind: str, seconds: float) -> Any:
        case = f"script-gpt2-{kind}"
        return run_of("gptfast", 0, 9.0, seconds, group="scripts", case=case)

    rows = rows_of("scripts", [run("english", 1.0), run("hindi", 4.0)])
    beside = next(row for row in rows if row.title.startswith("ours"))
    assert beside.ratios("english (gpt2)") == [0.25]
    assert beside.targets == {"english (gpt2)": 0.4}


def test_what_a_library_cannot_do_is_left_out(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise Unsupported("it has no gpt2")

    monkeypatch.setitem(worker.ENTRANTS, "somebody", refuse)
    reply = worker.run_job(Job("encode", "somebody", 1), inputs.folder)
    assert reply == {"left out": "it has no gpt2"}


def test_a_text_is_repeated_with_its_ids(inputs: Inputs) -> None:
    inputs.tokenizer_json.parent.mkdir()
    size = 10_000 / 1e6  # the text has 2,240 bytes
    assert make_case(inputs, f"first-{size}", None) == {}
    repeated = Inputs(inputs.folder / f"first-{size}")
    assert 10_000 <= len(repeated.text) < 10_100
    assert repeated.expected_ids("text").tolist() == list(repeated.text)
    cut = regex.findall(GPT2_PATTERN, repeated.text.decode())
    assert set(cut) <= set(regex.findall(GPT2_PATTERN, TEXT))  # nothing grew together


def test_a_tokenizer_json_has_the_ids_of_tiktoken(tmp_path: Path) -> None:
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258, b"xyz": 259}
    data = tokenizer_json(ranks, VOCABULARIES["qwen2"].plain, {"<|endoftext|>": 260})
    tokenizer = Tokenizer.from_str(data)
    assert tokenizer.encode("abc").ids == [258]
    assert tokenizer.encode("xyz").ids == [259]  # no merge makes it
    assert tokenizer.encode("zbcxyz").ids == [122, 257, 120, 121, 122]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_every_script(kind: str) -> None:
    text = text_of(kind, 20_000, b"some English words " * 2000)
    assert 10_000 < len(text) <= 20_000
    assert text == text_of(kind, 20_000, b"some English words " * 2000)
    assert (kind in ("english", "code")) == text.decode().isascii()


def test_scaling_is_one_thread_beside_two() -> None:
    blocks = {"group": "scaling", "task": "encode_blocks"}
    runs = [
        run_of("gptfast", 0, 9.0, 3.8, threads=1, **blocks),
        run_of("gptfast", 0, 9.0, 2.0, threads=2, **blocks),
    ]
    *_, row = rows_of("scaling", runs)
    assert row.ratios("1 thread") == [1.9]
    assert row.targets == {"1 thread": 1.8}


def test_growth_is_against_a_straight_line() -> None:
    runs = [
        run_of("gptfast", 0, seconds, group="growth", task="train", vocab_size=size)
        for size, seconds in [(8192, 1.0), (65_536, 4.0), (16_384, 3.0)]
    ]
    sizes = report.growth_of(runs)["vocabulary"]
    assert [size for size, _, _ in sizes] == [8192, 16_384, 65_536]
    assert report.of_linear(sizes) == [1.0, 1.5, 0.5]
    assert report.of_step(sizes) == pytest.approx([1.0, 1.5, 1 / 3])
    shown = printed(lambda console: report.print_targets([], {"vocabulary": sizes}, console))
    verdicts = [line.split()[-2:] for line in shown if "linear" in line]
    assert verdicts == [["0.50", "met"], ["1.50", "missed"]]
    shown = printed(lambda console: report.print_targets([], {"text": sizes[::2]}, console))
    assert [line.split()[-2:] for line in shown if "linear" in line] == [["0.50", "met"]] * 2


def test_pieces_keep_the_pre_tokens() -> None:
    cut = list(pieces(TEXT.encode(), 50))
    assert len(cut) > 20
    assert b"".join(cut) == TEXT.encode()
    apart = [token for piece in cut for token in regex.findall(GPT2_PATTERN, piece.decode())]
    assert apart == regex.findall(GPT2_PATTERN, TEXT)


def test_short_strings_have_thirty_bytes() -> None:
    strings = short_strings(TEXT)
    assert {len(string.encode()) for string in strings} == {30}
    assert any(not string.isascii() for string in strings)
    assert all(string in TEXT for string in strings)


def test_a_part_of_a_text_is_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "text.xz").write_bytes(lzma.compress(b"one\ntwo\nthree\n"))
    copy_text(tmp_path / "text.xz", tmp_path / "all")
    assert (tmp_path / "all").read_bytes() == b"one\ntwo\nthree\n"
    copy_text(tmp_path / "all", tmp_path / "part", 10)
    assert (tmp_path / "part").read_bytes() == b"one\ntwo\n"


def printed(show: Any) -> list[str]:
    """The lines that `show` prints, without the table's frame."""
    out = io.StringIO()
    show(Console(file=out, width=120, markup=False))
    return [line.replace("│", " ") for line in out.getvalue().splitlines()]
