"""What commands for text say to a vision transformer, and how its runs compare."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

from gptfast.cli import cli
from gptfast.train.__main__ import main as train

READS_IMAGES = "it describes a vision transformer, which reads images and not text"
FLAGS = ["--max-steps", "3", "--eval-interval", "2", "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vit"
    shape = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16"]
    assert train(["--preset", "vit-digits", *shape, *FLAGS, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sample --model VIT", READS_IMAGES),
        ("serve VIT", READS_IMAGES),
        ("quantize VIT --to int8 --out out", READS_IMAGES),
        ("export html VIT --out out.html", READS_IMAGES),
        ("export gguf VIT --out out.gguf", READS_IMAGES),
        ("export onnx VIT --out out.onnx", READS_IMAGES),
        ("finetune sft --model VIT --data chats.jsonl --out out", READS_IMAGES),
        ("finetune classify --model VIT --data chats.jsonl --out out", READS_IMAGES),
        ("eval VIT --text text.txt", READS_IMAGES),
        ("eval VIT --corpus text.txt", READS_IMAGES),
        ("audit attention VIT --text hello", READS_IMAGES),
        ("audit repetition VIT", READS_IMAGES),
        ("train --init-from VIT --corpus text.txt --out out", READS_IMAGES),
        ("train --preset vit-digits --init-from VIT --out out", "Unrecognized options: --init-fr"),
        ("train --preset vit-digits --corpus text.txt --out out", "Unrecognized options: --corpus"),
        ("train --preset images/vit-digits --out out", "unknown preset 'images/vit-digits'"),
        ("plan vit-digits", "the preset vit-digits is for images, and only `gptfast train` takes"),
    ],
)
def test_commands_for_text_refuse_it(
    command: str,
    said: str,
    vit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 40)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    lines = [json.dumps({"messages": messages, "text": "a", "label": "b"})] * 20
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    name, *arguments = command.replace("VIT", str(vit)).split()
    capsys.readouterr()
    main = importlib.import_module(f"gptfast.{name}.__main__").main
    assert cli.run(main, arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out*/*model*"))


def test_runs_compare_without_samples(vit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gptfast.compare.__main__ import main as compare

    other = shutil.copytree(vit, vit.with_name("other"), dirs_exist_ok=True)
    record = json.loads((vit / "run.json").read_text())
    capsys.readouterr()
    assert cli.run(compare, [str(vit), str(other)]) == 0
    text = capsys.readouterr().out
    assert "val loss (nats/image)" in text
    assert "bits/byte" not in text
    assert f"{record['result']['measured']['test_accuracy']:.3g}" in text


def test_images_and_text_are_not_compared(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shutil.copytree(vit, tmp_path / "text")
    record = json.loads((text / "run.json").read_text())
    del record["config"]["images"]
    (text / "run.json").write_text(json.dumps(record))
    for name, flags in (("compare", []), ("report", ["--out", str(tmp_path / "both.html")])):
        main = importlib.import_module(f"gptfast.{name}.__main__").main
        assert cli.run(main, [str(vit), str(text), *flags]) == 2
        assert "was trained on images, and" in capsys.readouterr().err
