"""nanoGPT's checkpoints become model folders with the same logits, and run no code."""

from __future__ import annotations

import math
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptfast.__main__ import main as gptfast
from gptfast.cli import cli
from gptfast.convert.__main__ import main
from gptfast.errors import MissingFileError, UserError
from gptfast.model.folder import load_model
from gptfast.tokenizer import BPETokenizer

ARGS = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 16, "vocab_size": 11, "dropout": 0.1}
CHARACTERS = "\nabcdefgAB "


class Layer(nn.Module):
    """A block under nanoGPT's names, its attention written out."""

    def __init__(self, C: int, n_head: int, bias: bool) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(C, bias=bias), nn.LayerNorm(C, bias=bias)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn = nn.Linear(C, 3 * C, bias=bias)
        self.attn.c_proj = nn.Linear(C, C, bias=bias)
        self.mlp.c_fc = nn.Linear(C, 4 * C, bias=bias)
        self.mlp.c_proj = nn.Linear(4 * C, C, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        T, C = x.shape[-2:]
        heads = []
        for qkv in (
            self.attn.c_attn(self.ln_1(x)).view(*x.shape[:-1], 3, self.n_head, -1).unbind(-2)
        ):
            q, k, v = qkv.unbind(-2)
            scores = q @ k.mT / math.sqrt(C / self.n_head)
            scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + self.attn.c_proj(torch.cat(heads, -1))
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)


class Theirs(nn.Module):
    """nanoGPT's GPT: its names, its tied head, the exact GELU."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        C, bias = args["n_embd"], args.get("bias", True)
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(args["vocab_size"], C),
            "wpe": nn.Embedding(args["block_size"], C),
            "h": nn.ModuleList(Layer(C, args["n_head"], bias) for _ in range(args["n_layer"])),
            "ln_f": nn.LayerNorm(C, bias=bias),
        })  # fmt: skip
        self.lm_head = nn.Linear(C, args["vocab_size"], bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)

    def forward(self, idx: Tensor) -> Tensor:
        t = self.transformer
        x = t.wte(idx) + t.wpe.weight[: idx.size(1)]
        for layer in t.h:
            x = layer(x)
        logits: Tensor = self.lm_head(t.ln_f(x))
        return logits


def checkpoint(path: Path, args: dict[str, Any], prefix: str = "") -> Theirs:
    """Save what nanoGPT's train.py saves."""
    torch.manual_seed(0)
    theirs = Theirs(args)
    optimizer = torch.optim.AdamW(theirs.parameters())
    theirs(torch.zeros(1, 2, dtype=torch.long)).sum().backward()
    optimizer.step()
    contents = {
        "model": {prefix + name: tensor for name, tensor in theirs.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": args,
        "iter_num": 1,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "learning_rate": 1e-3, "compile": True},
    }
    torch.save(contents, path)
    return theirs


def meta(path: Path, characters: str = CHARACTERS) -> Path:
    itos = dict(enumerate(characters))
    stoi = {c: i for i, c in itos.items()}
    path.write_bytes(pickle.dumps({"vocab_size": len(itos), "itos": itos, "stoi": stoi}))
    return path


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("args", [{"bias": True}, {"bias": False}, {}], ids=str)
def test_logits_and_characters_agree(args: dict[str, bool], prefix: str, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "ckpt.pt", ARGS | args, prefix)
    meta(tmp_path / "meta.pkl")
    out = tmp_path / "model"
    arguments = ["nanogpt", str(tmp_path / "ckpt.pt"), "--out", str(out)]
    assert main([*arguments, "--meta", str(tmp_path / "meta.pkl")]) == 0
    ours, tokenizer = load_model(out)
    ids = torch.randint(11, (3, 16))
    with torch.no_grad():
        expected = theirs.eval()(ids)
        assert expected.std() > 0.3
        torch.testing.assert_close(ours(ids), expected, atol=1e-5, rtol=0)
    assert tokenizer.encode("Bad\n") == [CHARACTERS.index(c) for c in "Bad\n"]
    assert ours.config.dropout == 0.1


def test_masks_are_left_out_and_an_untied_head_is_kept(
    tmp_path: Path,
) -> None:
    theirs = checkpoint(tmp_path / "ckpt.pt", ARGS)
    contents = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    contents["model"]["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    contents["model"]["lm_head.weight"] = contents["model"]["lm_head.weight"] * 2
    torch.save(contents, tmp_path / "ckpt.pt")
    tokenizer = meta(tmp_path / "meta.pkl")
    out = tmp_path / "model"
    main(["nanogpt", str(tmp_path / "ckpt.pt"), "--out", str(out), "--meta", str(tokenizer)])
    ours, _ = load_model(out)
    ids = torch.randint(11, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids) / 2, theirs(ids), atol=1e-5, rtol=0)


def test_transformers_gives_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = checkpoint(tmp_path / "ckpt.pt", ARGS)
    out = tmp_path / "model"
    files = ["--out", str(out), "--meta", str(meta(tmp_path / "meta.pkl"))]
    main(["nanogpt", str(tmp_path / "ckpt.pt"), *files])
    third = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    ids = torch.randint(11, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(third(ids).logits, theirs(ids), atol=1e-5, rtol=0)


def test_a_bpe_may_have_fewer_ids_than_the_padded_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bpe = BPETokenizer.train(["a rose is a rose is a rose. " * 30], 300)
    bpe.save(tmp_path / "bpe")
    checkpoint(tmp_path / "ckpt.pt", ARGS | {"vocab_size": 320})
    out = tmp_path / "model"
    words = ["nanogpt", str(tmp_path / "ckpt.pt"), "--tokenizer", str(tmp_path / "bpe")]
    monkeypatch.setattr(sys, "argv", ["gptfast", "import", *words, "--out", str(out)])
    assert gptfast() == 0
    assert "264 ids" in capsys.readouterr().out
    model, tokenizer = load_model(out)
    assert model.config.vocab_size == 320
    assert tokenizer.encode("a rose") == bpe.encode("a rose")
    # A rank file says nothing of its pattern.
    bpe.to_tiktoken(tmp_path / "bpe.tiktoken")
    words[-1] = str(tmp_path / "bpe.tiktoken")
    other = ["--out", str(tmp_path / "other")]
    monkeypatch.setattr(sys, "argv", ["gptfast", "import", *words, *other])
    assert gptfast() == 2
    assert "pattern" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["gptfast", "import", *words, *other, "--pattern", "gpt2"])
    assert gptfast() == 0
    assert load_model(tmp_path / "other")[1].encode("a rose") == bpe.encode("a rose")


class Hostile:
    """What runs a command when a pickle of it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("which", ["ckpt.pt", "meta.pkl"])
def test_no_code_is_run(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "ckpt.pt", ARGS)
    meta(tmp_path / "meta.pkl")
    if which == "ckpt.pt":
        torch.save({"model": {}, "model_args": ARGS, "config": Hostile()}, which)
    else:
        Path(which).write_bytes(pickle.dumps({"itos": Hostile()}))
    with pytest.raises(UserError, match=rf"{which} can't be") as caught:
        main(["nanogpt", "ckpt.pt", "--out", "model", "--meta", "meta.pkl"])
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()
    assert not Path("model").exists()


def refused(tmp_path: Path, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        main(["nanogpt", str(tmp_path / "ckpt.pt"), "--out", str(tmp_path / "model"), *arguments])
    message = str(caught.value)
    assert "\n" not in message
    assert not (tmp_path / "model").exists()
    return message


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    characters = ["--meta", str(meta(tmp_path / "meta.pkl"))]
    with pytest.raises(MissingFileError, match=r"there is no .*ckpt\.pt"):
        main(["nanogpt", str(tmp_path / "ckpt.pt"), "--out", str(tmp_path / "model"), *characters])
    (tmp_path / "ckpt.pt").write_bytes(b"PK\x03\x04 broken")
    assert "can't be read as weights" in refused(tmp_path, *characters)
    torch.save([1, 2], tmp_path / "ckpt.pt")
    assert "is not a checkpoint of nanoGPT" in refused(tmp_path, *characters)
    torch.save({"model": {}, "model_args": {"n_layer": 1}}, tmp_path / "ckpt.pt")
    assert "KeyError('vocab_size')" in refused(tmp_path, *characters)
    torch.save({"model": {}, "model_args": ARGS}, tmp_path / "ckpt.pt")
    assert "is missing, expected (" in refused(tmp_path, *characters)
    torch.save({"model": {}, "model_args": ARGS | {"use_relu": True}}, tmp_path / "ckpt.pt")
    assert "ckpt.pt can't be used: its model_args have use_relu = True" in refused(
        tmp_path, *characters
    )
    torch.save({"model": {}, "model_args": ARGS | {"n_head": 5}}, tmp_path / "ckpt.pt")
    assert "n_embd 24 can't be divided into n_head 5 heads" in refused(tmp_path, *characters)
    checkpoint(tmp_path / "ckpt.pt", ARGS)
    contents = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    torch.save(contents | {"model_args": ARGS | {"block_size": 8}}, tmp_path / "ckpt.pt")
    message = refused(tmp_path, *characters)
    assert "wpe.weight is of shape (16, 24), expected (8, 24)" in message
    checkpoint(tmp_path / "ckpt.pt", ARGS)
    assert "give either --meta" in refused(tmp_path)
    assert "give either --meta" in refused(tmp_path, *characters, "--tokenizer", "bpe")
    more = ["--meta", str(meta(tmp_path / "more.pkl", CHARACTERS + "xyz"))]
    assert "14 ids, but the model only 11" in refused(tmp_path, *more)
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps({"vocab_size": 2}))
    odd = ["--meta", str(tmp_path / "odd.pkl")]
    assert "odd.pkl can't be used ('itos')" in refused(tmp_path, *odd)
    (tmp_path / "odd.pkl").write_bytes(b"\x80\x05oops")
    assert "odd.pkl can't be used" in refused(tmp_path, *odd)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    assert cli.run(main, ["nanogpt", "c", "--out", str(tmp_path / "model"), *characters]) == 2
    assert "already holds something" in capsys.readouterr().err
