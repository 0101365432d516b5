"""Write a GPT as an ONNX graph: the model's own layers, with keys and values as inputs and outputs.

Inputs and outputs have the names that Hugging Face's exporter gives them, so that programs for its
graphs run this one. Shape suffixes: B batch, T new tokens, P past tokens, S = P + T, V vocabulary,
H query heads, G key and value heads, D head width.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gptfast.errors import UserError
from gptfast.export.out import check_out
from gptfast.model import GPT, ModelConfig
from gptfast.model.finite import check_weights
from gptfast.model.folder import load_float_model
from gptfast.model.kv_cache import NewTokens
from gptfast.ops.attention import attention_weights, weighted_sum
from gptfast.system.files import write_atomically

DATA_BYTES = 1 << 30
"""Weights beyond this size lie in a file beside the graph, which must be less than 2 GiB."""


class Past(NewTokens):
    """The new tokens of one forward pass, with the keys and values of earlier tokens.

    `GPT.hidden` takes it in place of the new tokens of a cache. A cache is changed in place, which
    an ONNX graph can't do. So `attend` takes the past's keys and values from a list, and appends
    those of past and new tokens to `present`, which the graph returns.
    """

    def __init__(self, position_BT: Tensor, is_token_BS: Tensor, past: list[Tensor]) -> None:
        """past: keys and values of each layer in turn, (B, G, P, D)."""
        self.position_BT, self._past = position_BT, past
        T, S = position_BT.size(1), is_token_BS.size(1)
        device = position_BT.device
        # How far key s is ahead of query t: the last query is aligned with the last key.
        query_T = torch.arange(S - T, S, device=device)
        self._ahead_TS = torch.arange(S, device=device) - query_T[:, None]
        self._hidden_BTS = (self._ahead_TS > 0) | ~is_token_BS[:, None]
        self.present: list[Tensor] = []
        """Keys and values of each layer in turn, (B, G, S, D)."""

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None
    ) -> Tensor:
        """Return attention over the past and the new tokens, (B, H, T, D)."""
        k_BGSD = torch.cat((self._past[2 * layer], k_BGTD), dim=2)
        v_BGSD = torch.cat((self._past[2 * layer + 1], v_BGTD), dim=2)
        self.present += [k_BGSD, v_BGSD]
        hidden_BTS = self._hidden_BTS
        if window is not None:
            hidden_BTS = hidden_BTS | (self._ahead_TS <= -window)
        return weighted_sum(attention_weights(q_BHTD, k_BGSD, hidden_BTS[:, None], None), v_BGSD)

    def finish(self) -> None:
        """Do nothing: the past is the caller's."""


class Graph(nn.Module):
    """A GPT whose past is an input, and whose present is an output."""

    def __init__(self, model: GPT, n_vocab: int) -> None:
        super().__init__()
        self.model, self.n_vocab = model, n_vocab

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return logits (B, T, V), and keys and values of each layer in turn, (B, G, S, D).

        input_ids, position_ids: int64 (B, T). attention_mask: int64 (B, S), 0 for padding. past:
        keys and values of each layer in turn, (B, G, P, D).
        """
        tokens = Past(position_ids, attention_mask.bool(), past)
        logits_BTV = self.model._logits_of(self.model.hidden(input_ids, tokens))
        return logits_BTV[..., : self.n_vocab], *tokens.present


def export_onnx(folder: Path, out: Path) -> None:
    """Write the model in `folder` as an ONNX graph in float32.

    Raises UserError for a model that can't be expressed, if `out` or the file of weights beside it
    exists, and if a library is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'writing ONNX needs libraries ({error}): pip install "gptfast[onnx]"'
        ) from error
    check_out(out, _data_file(out))
    model, tokenizer = load_float_model(folder, "an ONNX file")
    if (what := why_not(model.config)) is not None:
        raise UserError(f"{folder} can't be written as ONNX: {what}")
    check_weights(model)
    assert isinstance(model, GPT)
    write(model, tokenizer.n_vocab, out)
    print(f"{out}: {out.stat().st_size / 1e6:,.1f} MB, {model.n_parameters():,} parameters")


def _data_file(out: Path) -> Path:
    """Return where the weights of a large model lie."""
    return out.with_name(f"{out.name}.data")


def why_not(config: ModelConfig) -> str | None:
    """Return the reason why a model can't be written as ONNX, naming the field; None if it can."""
    if config.architecture != "gpt":
        return f"architecture is {config.architecture!r}, expected 'gpt', which has keys and values"
    if config.n_expert:
        return f"n_expert is {config.n_expert}: ONNX has no product grouped by experts; expected 0"
    if config.max_ngram > 1:
        return f"max_ngram is {config.max_ngram}: a cache of keys and values has no ids; expected 1"
    return None


def write(model: GPT, n_vocab: int, out: Path) -> None:
    """Write the graph of a float32 model; see `Graph` for its inputs and outputs. Raises OSError.

    n_vocab: number of ids of the tokenizer. Logits of further ids, which are padding, are cut off.
    """
    program = _traced(model.eval(), n_vocab)
    is_large = sum(p.numel() * p.element_size() for p in model.parameters()) > DATA_BYTES
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        program.save(Path(folder) / out.name, external_data=is_large)
        # The graph comes last, so that it is never without its weights.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == out.name):
            write_atomically(out.parent / file.name, partial(os.replace, file))


def _traced(model: GPT, n_vocab: int) -> torch.onnx.ONNXProgram:
    c = model.config
    B, T, P = 2, 3, 2  # an example; sizes of 0 and 1 would be taken for constants
    layers = [f"{layer}.{name}" for layer in range(c.n_layer) for name in ("key", "value")]
    # Inputs that are one tensor in the example would be one input of the graph.
    ids_BT, position_BT = (torch.zeros(B, T, dtype=torch.int64) for _ in range(2))
    past = [torch.zeros(B, c.key_value_heads, P, c.head_width) for _ in layers]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # it warns that torchvision, which isn't used, is missing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of the libraries on one another
            program = torch.onnx.export(
                Graph(model, n_vocab).eval(),
                (ids_BT, torch.ones(B, P + T, dtype=torch.int64), position_BT, past),
                dynamo=True,
                verbose=False,
                input_names=["input_ids", "attention_mask", "position_ids",
                             *(f"past_key_values.{name}" for name in layers)],
                output_names=["logits", *(f"present.{name}" for name in layers)],
                dynamic_shapes=[
                    {0: "batch", 1: "new"},
                    {0: "batch", 1: "total"},
                    {0: "batch", 1: "new"},
                    [{0: "batch", 2: "past"} for _ in layers],
                ],
            )  # fmt: skip
    finally:
        logger.setLevel(level)
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in these files each comes from
    return program
