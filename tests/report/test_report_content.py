"""What a report says is what the run's files say; what they lack is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from read_page import Content, read_page

from gptfast.cli import cli
from gptfast.finetune.__main__ import main as finetune
from gptfast.model.folder import load_model
from gptfast.quantize.__main__ import main as quantize
from gptfast.report.__main__ import main
from gptfast.train.__main__ import main as train

Write = Callable[..., Content]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(run, ...)` makes a report and reads it."""

    def write(*arguments: object) -> Content:
        out = tmp_path / "out" / "report.html"
        assert cli.run(main, [*map(str, arguments), "--out", str(out), "--overwrite"]) == 0
        return read_page(out)

    return write


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def change_record(run: Path, **changes: object) -> None:
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_facts_curves_and_samples_are_those_of_the_files(run: Path, write: Write) -> None:
    record, page = json.loads((run / "run.json").read_text()), write(run, "--no-playground")
    model, _ = load_model(run)
    facts = page.facts
    assert facts["Parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert facts["Tokens seen"] == f"{40 * 4 * 32:,}"
    assert facts["Seed"] == "1337"
    assert facts["Data type"] == "float32"
    assert float(facts["val loss"]) == record["result"]["val_loss"]
    assert float(facts["val bits per byte"]) == record["result"]["measured"]["val_bits_per_byte"]
    for name, version in record["versions"].items():
        assert facts[name] == str(version)
    assert facts["cpu"] == record["hardware"]["cpu"]
    assert record["command"] in page.text
    rows = dict(row for row in page.cells if len(row) == 2)
    assert rows["text nursery.txt"] == record["data"]["corpus_sha256"]
    for name in ("model.safetensors", "tokenizer.json", "metrics.jsonl"):
        assert rows[name] == hashlib.sha256((run / name).read_bytes()).hexdigest()
    losses = page.charts[0]["series"]
    drawn = {one["name"]: [point[:2] for point in one["points"]] for one in losses}
    assert drawn["val"] == [[m["step"], m["val_loss"]] for m in lines(run) if "val_loss" in m]
    assert drawn["train"] == [[m["step"], m["loss"]] for m in lines(run) if "loss" in m]
    samples = [m for m in lines(run) if "sample" in m]
    alnum = "".join(filter(str.isalnum, page.text))
    assert [m["step"] for m in samples] == [0, 4, 10, 20, 30, 40]
    for sample in samples:
        assert "".join(filter(str.isalnum, sample["sample"])) in alnum
        assert f"step {sample['step']:,}" in page.text
    for stage in ("Before training", "After 10%", "Half way", "At the end"):
        assert stage in page.text
    assert {"uniform", "unigram", "bigram"} <= {one["name"].split()[0] for one in losses}
    assert [check for check in page.text.split() if check.startswith("Failed")] == []
    for title in ("Tokenizer", "Attention", "Repetition", "What this does not show"):
        assert title in page.text


def test_a_page_names_no_address_and_stays_small(run: Path, write: Write, tmp_path: Path) -> None:
    long = [{"step": i, "loss": 3.0 + 1 / (i + 1), "seconds": i} for i in range(1, 20_001)]
    long += [{"step": i, "val_loss": 3.0, "seconds": i} for i in range(0, 20_001, 50)]
    long += [{"step": i, "sample": "word " * 150} for i in range(0, 20_001, 50)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in long))
    page = write(run, "--no-playground", "--no-audits")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(html.encode()) < 400_000
    assert "100 of 401 samples" in page.text
    assert set(re.findall(r"https?://[^\"'\s]+", html)) == {"http://www.w3.org/2000/svg"}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert re.match(r"#|data:|$", attributes.get(name) or "")
    write(run, "--no-audits")
    whole = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(html) + 50_000 < len(whole) < 2_500_000


HOSTILE = "</script></pre><img src=x onerror=alert(1)>{{lead}} <!-- ]]> \x1b[2J & \u2028"


def test_hostile_text_stays_text(run: Path, write: Write) -> None:
    folder = run.with_name("<i>a&b")
    run.rename(folder)
    changed = [m | ({"sample": HOSTILE} if "sample" in m else {}) for m in lines(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in changed))
    record = json.loads((folder / "run.json").read_text())
    change_record(folder, command=HOSTILE, data=record["data"] | {"corpus": HOSTILE})
    page = write(folder, "--no-audits")
    assert not {"img", "i"} & {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert "<i>a&b" in page.text
    assert "{{lead}}" in page.text
    assert HOSTILE[:40] in page.text
    assert "\x1b" not in page.text


def test_a_run_that_is_going_on(run: Path, write: Write) -> None:
    change_record(run, result=None)
    (run / "model.safetensors").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "lo')
    page = write(run)
    assert "The run is not finished" in page.text
    assert "step 40 of 40" in page.text
    assert "nothing that needs the weights" in page.text
    assert "the weights" in page.text[page.text.index("Missing in the folder") :]
    assert page.facts["Val loss"].startswith(
        f"{min(m['val_loss'] for m in lines_but_the_last(run) if 'val_loss' in m):.4f}"
    )


def lines_but_the_last(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]]


@pytest.mark.parametrize("kept", ["loss", "val_loss", None])
def test_a_run_without_evaluations_or_losses(run: Path, write: Write, kept: str | None) -> None:
    some = [m for m in lines(run) if kept in m]
    (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in some))
    page = write(run, "--no-playground", "--no-audits")
    assert "There are no samples" in page.text
    assert ("No evaluation yet" in page.text) == (kept == "loss")
    assert ("There are no losses" in page.text) == (kept is None)


def test_a_resumed_run_names_both_commands_and_each_step_once(
    made: Any, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTFAST_CACHE", str(made.folder / "cache"))
    run = shutil.copytree(made.folder / "char", tmp_path / "char")
    before = json.loads((run / "run.json").read_text())["command"].split()[3:]
    before[before.index("--out") + 1] = str(run)
    assert cli.run(train, [*before, "--max-steps", "8", "--resume"]) == 0
    assert [m["step"] for m in lines(run) if "sample" in m] == [0, 2, 4, 8]
    page = write(run)
    assert "It was stopped, and resumed by" in page.text
    assert "--max-steps 8 --resume" in page.text
    assert "Each character is a token" in page.text


def test_a_changed_text_gives_no_baseline(run: Path, write: Write) -> None:
    record = json.loads((run / "run.json").read_text())
    change_record(run, data=record["data"] | {"corpus": "gone.txt"})
    silent = [json.dumps(m) + "\n" for m in lines(run) if "sample" not in m]
    (run / "metrics.jsonl").write_text("".join(silent))
    page = write(run, "--no-playground")
    names = [one["name"].split()[0] for one in page.charts[0]["series"]]
    assert names == ["train", "val", "uniform"]
    assert "This report lacks something: no baselines that count" in page.text
    assert "on a line of built-in text" in page.text


def test_a_quantized_folder_without_metrics(run: Path, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    assert cli.run(quantize, [str(run), "--to", "int8", "--out", str(out)]) == 0
    (out / "metrics.jsonl").unlink()
    page = write(out, "--no-audits")
    assert "were rounded to int8 after training" in page.text
    assert "Missing in the folder: metrics.jsonl" in page.text
    assert "frame" in [attributes.get("id") for _, attributes in page.tags]


def test_an_adapter_and_the_folder_that_it_was_tuned_from(
    run: Path, write: Write, tmp_path: Path
) -> None:
    chats = [{"prompt": f"{i} + {i}?", "completion": f"{2 * i}."} for i in range(30)]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    out = tmp_path / "tuned"
    arguments = ["sft", "--model", run, "--data", data, "--out", out, "--lora-rank", "2",
                 "--max-steps", "4", "--eval-interval", "2", "--batch-size", "2"]  # fmt: skip
    assert cli.run(finetune, [*map(str, arguments), "--device", "cpu", "--dtype", "float32"]) == 0
    page = write(out)
    assert "fine-tuned from" in page.text
    assert page.facts["Data"] == str(data)
    assert "no repetition, because there is no val text to compare with" in page.text
    drawn = {one["name"]: [p[:2] for p in one["points"]] for one in page.charts[0]["series"]}
    assert drawn["val"] == [[m["step"], m["val_loss"]] for m in lines(out) if "val_loss" in m]
    rows = dict(row for row in page.cells if len(row) == 2)
    assert rows["adapter_model.safetensors"] == (
        hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest()
    )


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    cut = shutil.copytree(run, tmp_path / "cut")
    (cut / "run.json").write_text("{")
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "seconds": 1}\nnonsense\n')
    infinite = shutil.copytree(run, tmp_path / "infinite")
    (infinite / "metrics.jsonl").write_text('{"step": 1, "loss": NaN, "seconds": 1}\n')
    for arguments, message in [
        ([], "no run given"),
        ([tmp_path], f"no run in {tmp_path}: expected a folder"),
        ([run, "--out", there], f"{there} exists already: give --overwrite"),
        ([run, "--out", tmp_path], f"{tmp_path} is a folder: expected the name of a file"),
        ([run, "--out", there / "a.html"], "choose another --out"),
        ([cut], "run.json is damaged"),
        ([broken], "metrics.jsonl is damaged in line 2"),
        ([infinite], "metrics.jsonl is damaged in line 1 (NaN is no JSON)"),
    ]:
        capsys.readouterr()
        assert cli.run(main, list(map(str, arguments))) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert there.read_text() == "mine"


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (("written",), "written is None"),
        (("hardware", "cpu"), "hardware.cpu is None"),
        (("config", "model", "n_head"), "config.model.n_head is None"),
        (("data", "val_tokens"), "val_tokens is None"),
        (("result", "val_loss"), "val_loss"),
        (("shares", 0), "shares is []"),
    ],
)
def test_a_record_that_lacks_something_is_one_line(
    run: Path, lost: tuple[Any, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = content = json.loads((run / "run.json").read_text())
    for name in lost[:-1]:
        content = content[name]
    del content[lost[-1]]
    (run / "run.json").write_text(json.dumps(record))
    assert cli.run(main, [str(run), "--out", str(run / "report.html")]) == 2
    error = capsys.readouterr().err
    assert "run.json is damaged" in error
    assert message in error
    assert error.count("\n") == 1


def test_losses_that_were_not_finite_are_gaps(run: Path, write: Write) -> None:
    """metrics.jsonl has null for them."""
    change_record(run, result=None)
    metrics = [m | ({"val_loss": None} if "val_loss" in m else {}) for m in lines(run)]
    one = next(m for m in metrics if "val_loss" in m and m["step"] == 20)
    one["val_loss"] = 5.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    page = write(run, "--no-playground", "--no-audits")
    assert page.facts["Val loss"].startswith("5.0000")
    val = next(one for one in page.charts[0]["series"] if one["name"] == "val")
    assert [point[:2] for point in val["points"]] == [[20, 5.0]]
    assert ["40", "-"] in [row[:2] for row in page.cells]
    page = write(run, run)
    assert [point[:2] for point in page.charts[0]["series"][0]["points"]] == [[20, 5.0]]


def test_what_evaluations_measure_besides_the_loss_is_drawn(run: Path, write: Write) -> None:
    more = {"reward_accuracy": 0.25, "reward_accuracy_stderr": 0.01, "loads": [1, 2]}
    metrics = [m | (more if "val_loss" in m else {}) for m in lines(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    page = write(run, "--no-playground", "--no-audits")
    steps = [m["step"] for m in metrics if "val_loss" in m]
    (drawn,) = (c["series"] for c in page.charts if c["series"][0]["name"] == "reward accuracy")
    assert [point[:2] for point in drawn[0]["points"]] == [[step, 0.25] for step in steps]
    assert "stderr" not in page.text
    assert [row[4] for row in page.cells if "0.2500" in row] == ["0.2500"] * len(steps)
