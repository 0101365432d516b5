"""A page computes in Chromium what the model does in Python, alone and unharmed by hostile text.

The oracle is our PyTorch model with the weights that gguf's quantizer rounds.
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torch import Tensor

from browser import Open, Visit
from gptfast.cli import cli
from gptfast.errors import UserError
from gptfast.export.__main__ import main
from gptfast.export.html import PATTERNS, build_page, describe_tokenizer, export_html
from gptfast.model import LanguageModel, ModelConfig, build_model
from gptfast.model.folder import load_model, save_description, save_weights
from gptfast.model.quantized import quantize
from gptfast.sample.config import SamplingConfig
from gptfast.sample.generate import generate
from gptfast.sample.sampling import distribution
from gptfast.tokenizer import AddedToken, BPETokenizer, CharTokenizer, Tokenizer
from gptfast.train.config import load_preset
from gptfast.web import page as web
from tricky_text import ATOMS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SMALL = ModelConfig(vocab_size=320, block_size=64, n_layer=2, n_head=4, n_embd=64)
LLAMA = replace(
    SMALL, norm="rmsnorm", positions="rotary", activation="swiglu", bias=False, n_kv_head=2
)
CONFIGS = {
    "gpt2": SMALL,
    "llama, untied": replace(LLAMA, tie_embeddings=False),
    "windows, normed queries, yarn": replace(
        LLAMA, sliding_window=5, global_every=2, qk_norm=True, rope_scaling="yarn", rope_factor=4.0
    ),
    "wide heads, a layer without positions": replace(
        LLAMA, head_dim=24, nope_every=2, qkv_bias=True, rope_scaling="llama3", rope_factor=4.0
    ),
    "n-grams, relu2, soft cap, a context that fills up": replace(
        SMALL, block_size=24, max_ngram=3, ngram_rows=50, activation="relu2", logit_softcap=5.0,
        embedding_norm=True,
    ),
    "experts, ntk": replace(
        LLAMA, n_expert=4, expert_balance="bias", rope_scaling="ntk", rope_factor=2.0
    ),
    "exact GELU, no positions, odd width": replace(
        SMALL, n_embd=36, activation="gelu_exact", positions="none"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(nursery_text: str) -> BPETokenizer:
    return BPETokenizer.train(nursery_text, 300, progress=False)


def lively_model(config: ModelConfig) -> LanguageModel:
    """A model that is far from uniform, in every one of its parameters."""
    model = build_model(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_gain else 0.3 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("bias_E"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return model.eval()


def save(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    save_description(folder, model.config, tokenizer)
    save_weights(model, folder / "model.safetensors")
    return folder


def rounded(model: LanguageModel) -> LanguageModel:
    """The model with its matrices rounded by gguf, but for positions and routers."""
    quants = pytest.importorskip("gguf.quants", reason="needs gguf")
    q8_0 = pytest.importorskip("gguf").GGMLQuantizationType.Q8_0

    def round_trip(weight: Tensor) -> Tensor:
        return torch.from_numpy(quants.dequantize(quants.quantize(weight.numpy(), q8_0), q8_0))

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_large = parameter.ndim >= 2 and "wpe" not in name and "router" not in name
            if is_large and parameter.shape[-1] % 32 == 0:
                parameter.copy_(round_trip(parameter))
    return model


def dequantized(model: LanguageModel) -> LanguageModel:
    """A model of floats whose matrices are those of a quantized one, by gguf."""
    quants = pytest.importorskip("gguf.quants", reason="needs gguf")
    types = pytest.importorskip("gguf").GGMLQuantizationType
    state = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(".blocks"):
            kind = model.get_submodule(name.removesuffix(".blocks")).kind
            values = quants.dequantize(tensor.numpy(), types[str(kind).upper()])
            state[name.replace(".blocks", ".weight")] = torch.from_numpy(values)
        else:
            state[name] = tensor
    floats = build_model(model.config)
    floats.load_state_dict(state)
    return floats.eval()


def greedy(model: LanguageModel, prompt: list[int], tokenizer: Tokenizer, n: int) -> list[int]:
    sampling = SamplingConfig(temperature=0)
    return list(generate(model, prompt, n, sampling=sampling, seed=0, tokenizer=tokenizer))


def opened(open_page: Open, file: Path, **options: Any) -> Visit:
    visit = open_page(file.as_uri(), **options)
    visit.page.locator("#guesses button:enabled").first.wait_for()  # the model has seen the prompt
    return visit


def finished(page: Page) -> None:
    """Wait until the page has written, and forget that it has."""
    announcement = page.locator("#announcement")
    announcement.and_(page.locator(":not(:empty)")).wait_for(state="attached")
    announcement.evaluate("e => e.textContent = ''")


def ids_of(page: Page) -> list[int]:
    ids = page.locator("#text .token").evaluate_all("all => all.map(e => Number(e.dataset.id))")
    return list(ids)


def wait_for_tokens(page: Page, n: int) -> None:
    page.locator(f"#text .token:nth-child({n}):last-child").wait_for()


def write(page: Page, n: int, **options: object) -> list[int]:
    """Let the page write n tokens, and return all ids of its text."""
    for name, value in {"length": n, **options}.items():
        page.locator(f"#{name}").fill(str(value))
    page.keyboard.press("Control+Enter")
    finished(page)
    return ids_of(page)


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory, tokenizer: BPETokenizer) -> Path:
    folder = tmp_path_factory.mktemp("html")
    save(folder / "model", lively_model(SMALL), tokenizer)
    export_html(folder / "model", folder / "page.html", "The king sees")
    return folder / "page.html"


# ---- it computes the same ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_a_page_writes_what_python_writes(
    open_page: Open, tmp_path: Path, tokenizer: BPETokenizer, name: str
) -> None:
    folder = save(tmp_path / "model", lively_model(CONFIGS[name]), tokenizer)
    prompt = "The king sees" * (6 if CONFIGS[name].block_size < 64 else 1)  # more than the context
    export_html(folder, tmp_path / "page.html", prompt)
    visit = opened(open_page, tmp_path / "page.html")
    written = write(visit.page, 50, temperature=0)
    ids = tokenizer.encode(prompt)
    model = rounded(load_model(folder)[0])
    assert written == ids + greedy(model, ids, tokenizer, 50)
    assert len(set(written)) > 8  # not one token over and over
    assert (visit.errors, visit.requests) == ([], [])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantized_folder_keeps_its_blocks(
    open_page: Open, tmp_path: Path, tokenizer: BPETokenizer, precision: Literal["int8", "int4"]
) -> None:
    model = quantize(lively_model(SMALL), precision)
    save_description(tmp_path / "model", SMALL, tokenizer, precision)
    save_weights(model, tmp_path / "model" / "model.safetensors")
    export_html(tmp_path / "model", tmp_path / "page.html", "The")
    visit = opened(open_page, tmp_path / "page.html")
    ids = tokenizer.encode("The")
    floats = dequantized(load_model(tmp_path / "model")[0])
    assert write(visit.page, 30, temperature=0) == ids + greedy(floats, ids, tokenizer, 30)
    assert f"rounded to {precision[3:]} bits" in visit.page.locator(".facts").inner_text()


def test_the_shape_of_the_shakespeare_preset(open_page: Open, tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(600)]
    tokenizer = BPETokenizer.train(" ".join(rng.choices(words, k=3000)), 1024, progress=False)
    config = load_preset("shakespeare-cpu").model
    assert tokenizer.n_vocab == config.vocab_size == 1024
    save(tmp_path / "model", lively_model(config), tokenizer)
    export_html(tmp_path / "model", tmp_path / "page.html", words[0])
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    visit = opened(open_page, tmp_path / "page.html")
    ids = tokenizer.encode(words[0])
    expected = ids + greedy(rounded(load_model(tmp_path / "model")[0]), ids, tokenizer, 50)
    assert write(visit.page, 50, temperature=0) == expected


def test_characters(open_page: Open, tmp_path: Path) -> None:
    tokenizer = CharTokenizer(sorted({*"Ada, é🦀\n<script>"}))
    model = lively_model(replace(SMALL, vocab_size=tokenizer.n_vocab))
    save(tmp_path / "model", model, tokenizer)
    export_html(tmp_path / "model", tmp_path / "page.html")
    visit = opened(open_page, tmp_path / "page.html")
    page = visit.page
    # Without a prompt, the model continues a line break, as `gptfast sample` does, and at once, so
    # that there is something to see.
    finished(page)
    ids = tokenizer.encode("\n")
    assert ids_of(page)[:1] == ids
    assert len(ids_of(page)) == 201
    assert write(page, 20, temperature=0) == ids + greedy(rounded(model), ids, tokenizer, 20)
    page.locator("#prompt").fill("Aβ")
    assert "β" in page.get_by_role("alert").inner_text()
    page.locator("#prompt").fill("é🦀")
    wait_for_tokens(page, 2)
    assert page.get_by_role("alert").count() == 0
    assert ids_of(page) == tokenizer.encode("é🦀")
    page.locator("#prompt").fill("")
    page.locator("#text:empty").wait_for()
    assert page.locator("#heads-about").inner_text() == "There is no text yet."
    assert n_dark_heads(page) == 0
    assert visit.errors == []


def test_tokenizers_agree(chromium: Browser, tokenizer: BPETokenizer) -> None:
    rng = random.Random(0)
    texts = ["", *("".join(rng.choices(ATOMS, k=rng.randint(1, 12))) for _ in range(400))]
    chars = CharTokenizer([*"abc é字🦀\n"], ["<unk>"])
    code = (
        web.inline("tokenizer.js")
        + """
        const tokenizer = buildTokenizer(description);
        return texts.map((text) => {
          const ids = tokenizer.encode(text);
          return [ids, textsOf(tokenizer, ids).join("")];
        });"""
    )
    page = chromium.new_page()
    ranks = tokenizer.mergeable_ranks
    by_pattern = [
        BPETokenizer(ranks, pattern, {"<|endoftext|>": len(ranks)}) for pattern in PATTERNS
    ]
    for ours in (*by_pattern, chars):
        found = page.evaluate(
            f"([description, texts]) => {{ {code} }}", [describe_tokenizer(ours), texts]
        )
        expected = [ours.encode(text) for text in texts]
        assert [ids for ids, _ in found] == expected
        # A stream of bytes may end within a character, which is shown when it is complete.
        assert [text for _, text in found] == [ours.decode(ids) for ids in expected]
    page.close()


def test_samplers_agree(chromium: Browser) -> None:
    code = (
        web.inline("sampler.js")
        + """
        const counts = new Array(5).fill(0);
        for (let i = 0; i < 20000; i++) counts[draw([0.5, 0, 0.25, 0.2, 0.05], random(7, i))]++;
        return [cases.map((sampling) => [...distribution(Float32Array.from(logits), sampling)]),
                likeliest(logits, 4), counts];"""
    )
    logits = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 3
    cases: list[dict[str, Any]] = [
        {"temperature": 1.0}, {"temperature": 0.5, "topK": 7}, {"temperature": 1.7, "topK": 1000},
    ]  # fmt: skip
    page = chromium.new_page()
    found, top, counts = page.evaluate(
        f"([logits, cases]) => {{ {code} }}", [logits.tolist(), cases]
    )
    page.close()
    for case, probabilities in zip(cases, found, strict=True):
        sampling = SamplingConfig(case["temperature"], case.get("topK"))
        expected = distribution(logits, sampling)
        torch.testing.assert_close(torch.tensor(probabilities), expected)
    assert top == logits.topk(4).indices.tolist()
    # Chi-square with 3 degrees of freedom: above 16.3 once in a thousand seeds, and this is one.
    expected_counts = [10_000, 5_000, 4_000, 1_000]
    drawn = [count for i, count in enumerate(counts) if i != 1]
    assert counts[1] == 0
    assert sum((n - e) ** 2 / e for n, e in zip(drawn, expected_counts, strict=True)) < 16.3


def test_attention_is_what_python_computes(
    open_page: Open, small_page: Path, tokenizer: BPETokenizer
) -> None:
    visit = opened(open_page, small_page)
    ids = tokenizer.encode("The king sees")
    place, layer, head = len(ids) - 2, 1, 2
    visit.page.locator(".token").nth(place).click()
    visit.page.get_by_label(f"Layer {layer + 1}, head {head + 1}").click()
    shown = visit.page.locator("#text .token").evaluate_all(
        "all => all.map(e => Number(e.style.getPropertyValue('--weight')))"
    )
    model, qkv = rounded(lively_model(SMALL)), []
    model.get_submodule(f"h.{layer}.attn.c_attn").register_forward_hook(
        lambda module, inputs, output: qkv.append(output)
    )
    with torch.no_grad():
        model(torch.tensor([ids]))
    q_TD, k_TD, _ = (part[0, :, head * 16 : head * 16 + 16] for part in qkv[0].split(64, dim=-1))
    weights = (q_TD[place] @ k_TD[: place + 1].T / 4).softmax(-1)
    expected = torch.cat((weights.sqrt(), torch.zeros(len(ids) - place - 1)))  # shown by roots
    torch.testing.assert_close(torch.tensor(shown), expected, atol=6e-4, rtol=0)


def n_dark_heads(page: Page) -> int:
    """How many strips show anything."""
    shown = page.locator(".head canvas").evaluate_all(
        "all => all.map(c => c.getContext('2d').getImageData(0, 0, 48, 1).data.some(x => x > 0))"
    )
    return sum(shown)


# ---- it can be used ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_text(open_page: Open, small_page: Path) -> None:
    page = opened(open_page, small_page).page
    first = write(page, 40, seed=5)
    assert write(page, 40, seed=6) != first
    assert write(page, 40, seed=5) == first
    # Stopping and going on does not change the text either.
    write(page, 15, seed=5)
    page.locator("#length").fill("25")
    page.locator("#more").click()
    finished(page)
    assert ids_of(page) == first


def test_writing_can_be_stopped(open_page: Open, small_page: Path) -> None:
    page = opened(open_page, small_page).page
    page.locator("#length").fill("100000")
    page.locator("#generate").click()
    page.locator("#text .token").nth(30).wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Generate").wait_for()
    assert 30 < len(ids_of(page)) < 100_000


def test_numbers_that_cannot_be_used_are_shown(open_page: Open, small_page: Path) -> None:
    page = opened(open_page, small_page).page
    before = ids_of(page)
    cases = {"length": ["-3", "", "1.5"], "top-k": ["0.5", "0"], "seed": ["99999999999", "-1", ""]}
    for field, values in cases.items():
        box = page.locator(f"#{field}")
        usual = box.input_value()
        for value in values:
            box.fill(value)
            assert page.locator("[aria-invalid=true]").get_attribute("id") == field
            assert "must be a whole number from" in page.locator("#invalid").inner_text()
            page.keyboard.press("Control+Enter")
            page.locator("#more").click()
        box.fill(usual)
        assert page.locator("[aria-invalid=true]").count() == 0
        assert page.locator("#invalid").inner_text() == ""
    assert ids_of(page) == before
    assert len(write(page, 5)) == len(before) + 5  # and not what was refused, late
    page.locator("#length").fill("100000")
    page.locator("#generate").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.locator("#seed").fill("-1")
    page.get_by_role("button", name="Generate").wait_for()


def test_a_long_prompt_is_read_once_and_its_end_shown(
    open_page: Open, small_page: Path, tokenizer: BPETokenizer
) -> None:
    page = opened(open_page, small_page).page
    prompt = "The king sees the é🦀 moon.\n" * 200
    # What is shown begins within a character.
    third = tokenizer.encode("🦀")[2]
    while tokenizer.encode("The king sees" + prompt)[-500] != third:
        prompt += "o"
    page.evaluate("""() => {
      window.changes = 0;
      const count = (records) => { for (const r of records) changes += r.addedNodes.length; };
      new MutationObserver(count).observe(document.getElementById("text"), { childList: true });
    }""")
    # An event for each line, as Chromium has for text that is pasted.
    page.locator("#prompt").evaluate(
        """(prompt, text) => text.split(/(?<=\\n)/).forEach((line) => {
          prompt.value += line;
          prompt.dispatchEvent(new Event("input", { bubbles: true }));
        })""",
        prompt,
    )
    ids = tokenizer.encode("The king sees" + prompt)
    page.get_by_text(f"sees the last 64 of {len(ids):,} tokens").wait_for()
    assert ids_of(page) == ids[-500:]
    assert page.evaluate("changes") == 500
    note = page.locator("#text").get_attribute("data-note")
    assert note == f"{len(ids) - 500:,} tokens before these"
    shown = page.locator("#text").evaluate("e => e.textContent")
    assert shown.startswith("🦀 moon.\n")
    assert ("The king sees" + prompt).endswith(shown)
    # What a token looks at, and what comes instead of it, is counted from the whole text.
    page.locator("#text .token").nth(-2).click()
    assert page.locator("#guesses-title").inner_text().startswith("Instead of")
    weights = page.locator("#text .token").evaluate_all(
        "all => all.map(e => Number(e.style.getPropertyValue('--weight')))"
    )
    assert [weight > 0 for weight in weights] == [False] * 436 + [True] * 63 + [False]
    other = int(page.locator("#guesses button").nth(3).get_attribute("data-id") or -1)
    page.locator("#guesses button").nth(3).click()
    page.locator(f"#text .token:nth-child(499):last-child[data-id='{other}']").wait_for()
    assert ids_of(page) == [*ids[-500:-2], other]


def test_a_bar_writes_its_token(open_page: Open, small_page: Path) -> None:
    page = opened(open_page, small_page).page
    before = ids_of(page)
    bars = page.locator("#guesses button")
    third = int(bars.nth(2).get_attribute("data-id") or -1)
    bars.nth(2).click()
    wait_for_tokens(page, len(before) + 1)
    assert ids_of(page) == [*before, third]
    # Instead of an earlier token: what follows it goes.
    page.locator("#text .token").nth(1).focus()
    assert page.locator("#guesses-title").inner_text().startswith("Instead of")
    assert "at temperature 1, choice" in page.locator("#guesses-about").inner_text()
    other = int(bars.nth(3).get_attribute("data-id") or -1)
    bars.nth(3).click()
    wait_for_tokens(page, 2)
    assert ids_of(page) == [before[0], other]


def test_keys_reach_everything(open_page: Open, small_page: Path) -> None:
    visit = opened(open_page, small_page)
    page = visit.page
    write(page, 10)
    page.locator("#text .token").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#text .token.kept").get_attribute("data-id") == str(ids_of(page)[2])
    page.keyboard.press("Escape")
    assert page.locator("#text .token.kept").count() == 0
    page.locator(".head").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator(".head[aria-pressed=true]").get_attribute("title") == "Layer 1, head 2"
    unlabelled = page.locator("button, input, textarea").evaluate_all(
        "all => all.filter(e => !e.labels?.length && !e.textContent && !e.ariaLabel).length"
    )
    assert unlabelled == 0
    assert visit.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(open_page: Open, small_page: Path, scheme: str) -> None:
    phone = {"width": 360, "height": 740}
    touch = {"has_touch": True, "is_mobile": True}
    page = opened(open_page, small_page, viewport=phone, color_scheme=scheme, **touch).page
    assert not page.locator(".keys").is_visible()
    height = page.evaluate("document.documentElement.scrollHeight")
    write(page, 60)
    page.locator("#text .token").nth(-3).tap()
    # The bars are out of sight: what they tell is said beside the text.
    assert "at temperature 1, choice" in page.locator("#looked").inner_text()
    line = page.locator("#looked").bounding_box()
    assert line is not None
    assert line["y"] + line["height"] <= phone["height"]
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # Nothing jumps, but a line of words may take one more.
    assert abs(page.evaluate("document.documentElement.scrollHeight") - height) < 60


# ---- it is safe ----------------------------------------------------------------------------------


def test_hostile_names_and_tokens_are_shown_as_text(open_page: Open, tmp_path: Path) -> None:
    bad = "</script><img src=x onerror=document.title='broken'><!--"
    text = f"{bad}</textarea>" * 50
    tokenizer = BPETokenizer.train(
        text, 330, special_tokens=("<|endoftext|>", f"{bad}<script>"), progress=False
    )
    config = replace(SMALL, vocab_size=tokenizer.n_vocab)
    folder = save(tmp_path / "<img src=x onerror=1>&amp;", lively_model(config), tokenizer)
    export_html(folder, tmp_path / "page.html", f"</textarea>{bad}")
    visit = opened(open_page, tmp_path / "page.html")
    page = visit.page
    write(page, 60, temperature=2)
    assert page.locator("h1").inner_text() == folder.name
    assert page.locator("#prompt").input_value() == f"</textarea>{bad}"
    assert page.locator("#text").evaluate("e => e.textContent").startswith(f"</textarea>{bad}")
    assert page.locator("img").count() == 0
    # Even a script that got into the page would not run.
    trap = "<a id=trap onclick=document.title='broken'>"
    page.evaluate("trap => document.body.insertAdjacentHTML('beforeend', trap)", trap)
    page.locator("#trap").dispatch_event("click")
    assert page.title().startswith("<img")
    assert visit.requests == []
    assert len(visit.errors) == 1
    assert "Content Security Policy" in visit.errors[0]


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="needs names of bytes")
def test_names_that_are_not_utf8(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    folder = tmp_path / os.fsdecode(b'\xff<b>"x')
    save(folder, lively_model(SMALL), tokenizer)
    export_html(folder, tmp_path / "page.html")
    assert r"<h1>\udcff&lt;b&gt;&quot;x</h1>" in (tmp_path / "page.html").read_text("utf-8")
    data = {"corpus": os.fsdecode(b"caf\xe9.txt"), "train_bytes": 2_000_000}
    record = {
        "data": data, "further_data": [], "written": "2026-11-30T11:40:32+00:00", "result": None,
    }  # fmt: skip
    page = build_page(quantize(lively_model(SMALL), "int8"), tokenizer, "x", record=record)
    assert page.encode().count(rb"caf\udce9.txt") == 2


def test_a_record_tells_no_path(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    data = {"corpus": "/home/ada/my diary.txt", "train_bytes": 2_000_000}
    record = {
        "data": data, "further_data": [], "written": "2026-11-30T11:40:32+00:00",
        "result": {"val_loss": 1.5, "steps": 10, "seconds": 120.0, "measured": {}},
    }  # fmt: skip
    model = quantize(lively_model(SMALL), "int8")
    page = build_page(model, tokenizer, "diary", record=record)
    assert "my diary.txt, 2.0 MB of text" in page
    assert "1.500 nats per token" in page
    assert "30 November 2026" in page
    assert "/home" not in page


# ---- what it can't have --------------------------------------------------------------------------


def test_what_a_page_cannot_have_is_refused(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    ranks = tokenizer.mergeable_ranks
    bigram = build_model(ModelConfig(vocab_size=300, architecture="bigram"))
    gpt = lively_model(SMALL)
    named = AddedToken("<name>", len(ranks), special=False)
    cases: list[tuple[LanguageModel, Tokenizer, str, str]] = [
        (bigram, tokenizer, "", "architecture is 'bigram'"),
        (gpt, BPETokenizer(ranks, "none"), "", "pattern is 'none'"),
        (gpt, BPETokenizer(ranks, "qwen2", normalizer={"type": "NFC"}), "", "normalizer .*NFC"),
        (gpt, BPETokenizer(ranks, added_tokens=[named]), "", "'<name>' is not special"),
        (gpt, CharTokenizer("ab"), "abc", "'c'"),
    ]
    for i, (model, with_tokenizer, prompt, said) in enumerate(cases):
        folder = save(tmp_path / str(i), model, with_tokenizer)
        with pytest.raises(UserError, match=said) as raised:
            export_html(folder, tmp_path / "page.html", prompt)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "page.html").exists()


def test_the_command(tmp_path: Path, tokenizer: BPETokenizer) -> None:
    folder = save(tmp_path / "model", lively_model(SMALL), tokenizer)
    out = tmp_path / "page.html"
    arguments = ["html", str(folder), "--out", str(out), "--prompt", "The"]
    assert cli.run(main, arguments) == 0
    written = out.read_bytes()
    assert cli.run(main, arguments) == 2  # it exists already
    assert out.read_bytes() == written
    assert {*tmp_path.iterdir()} == {folder, out}
