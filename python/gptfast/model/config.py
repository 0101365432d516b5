"""The configuration of a model: one transformer, with its design choices as fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from gptfast.errors import UserError, as_float, as_int64, check_bool

Architecture = Literal["bigram", "average", "head", "multihead", "gpt"]
Norm = Literal["layernorm", "rmsnorm"]
Positions = Literal["learned", "rotary", "none"]
RopeScaling = Literal["none", "ntk", "yarn", "llama3"]
Activation = Literal["gelu", "gelu_exact", "swiglu", "relu2"]
ExpertBalance = Literal["loss", "bias"]
Precision = Literal["int8", "int4", "bf16"]
"""What a model can be quantized to (model/quantized.py): 'int8' is Q8_0 for every matrix; 'int4' is
Q4_0, but Q8_0 for embeddings and the head, which lose most by it; 'bf16' is bfloat16 for
everything."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. The defaults are GPT-2's. Raises UserError for impossible shapes.

    The rungs below the GPT (model/baselines.py) ignore the fields of parts that they lack.
    """

    vocab_size: int
    """Number of token ids, which is the width of the logits. A newly trained tokenizer gets this
    many ids."""
    architecture: Architecture = "gpt"
    """'gpt' is the transformer. The others are the rungs below it (model/baselines.py)."""
    block_size: int = 1024
    """Context length: the maximum number of tokens that the model sees at once."""
    n_layer: int = 12
    """Number of transformer blocks."""
    n_head: int = 12
    """Attention heads per block."""
    n_embd: int = 768
    """Width C of the residual stream."""
    dropout: float = 0.0
    """Probability of zeroing an element of the embeddings, the attention weights and the blocks'
    outputs in training."""

    causal: bool = True
    """Let each token see only itself and the past. Only a vision transformer can do without: a
    language model would see the tokens that it has to predict."""
    n_kv_head: int | None = None
    """Key and value heads. Each serves n_head / n_kv_head query heads. None means n_head."""
    head_dim: int | None = None
    """Width D of a head. None means n_embd / n_head, which must then be a whole number."""
    qkv_bias: bool = False
    """Give queries, keys and values a bias, even if other layers have none (Qwen 2)."""
    qk_norm: bool = False
    """Normalise queries and keys per head (RMS norm), which bounds the attention logits. Qwen 3
    does so."""
    sliding_window: int | None = None
    """Number of most recent tokens that a token sees, itself included. None means all."""
    global_every: int | None = None
    """With a sliding window, every global_every-th layer sees all tokens. None means no layer."""

    norm: Norm = "layernorm"
    """'layernorm' (GPT-2) or 'rmsnorm' (Llama), before each half of a block and after the last."""
    norm_eps: float = 1e-5
    """Added to the variance in the norms."""
    bias: bool = True
    """Give linear layers and layer norms a bias."""

    positions: Positions = "learned"
    """'learned' (a table, GPT-2), 'rotary' (RoPE, Llama) or 'none'."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling = "none"
    """How rotary positions are stretched to a context that is longer than the original one."""
    rope_factor: float = 1.0
    """By how much they are stretched."""
    rope_original_context: int | None = None
    """Context before the stretching, by which 'yarn' and 'llama3' tell fast rotations from slow
    ones. None means block_size / rope_factor."""
    nope_every: int | None = None
    """With rotary positions, every nope_every-th layer goes without positions (SmolLM 3). None
    means no layer."""

    activation: Activation = "gelu"
    """Activation of the MLP: 'gelu' (GPT-2's tanh approximation), 'gelu_exact' (nanoGPT),
    'swiglu' (Llama) or 'relu2' (ReLU squared, Primer)."""
    n_hidden: int | None = None
    """Width of the MLP. None means 4 n_embd; with 'swiglu', which has 3 matrices, it means 8/3
    n_embd rounded up to a multiple of 64."""

    n_expert: int = 0
    """Experts (MLPs) per block, of which a router chooses some for each token. 0 means one MLP
    and no router."""
    n_expert_active: int = 2
    """Number of experts that process each token."""
    expert_balance: ExpertBalance = "loss"
    """How the load of the experts is balanced: by an auxiliary 'loss' (Switch) or by a 'bias'
    (DeepSeek-V3)."""
    expert_balance_rate: float = 0.01
    """Weight of the balancing loss, or step size of the balancing bias."""

    max_ngram: int = 1
    """Longest n-gram to embed: each token also gets embeddings of the n-grams that end at it, for
    n from 2 to max_ngram. 1 means none."""
    ngram_rows: int = 16384
    """Rows in the table of each n. A hash chooses an n-gram's row; n-grams may share a row."""
    ngram_dropout: float = 0.0
    """Probability of dropping all n-grams of a token in training. The model soon memorises rare
    n-grams, which new text does not contain."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    embedding_norm: bool = False
    """Normalise the embeddings before the first block."""
    zero_init: bool = False
    """Initialise the matrices that write into the residual stream with zeros, so that a block
    does nothing at first."""
    logit_softcap: float | None = None
    """Cap each logit x as cap * tanh(x / cap) (Gemma 2). None means no cap."""

    def __post_init__(self) -> None:
        self._check_types()
        self._check_choices()
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_kv_head",
                     "head_dim", "n_hidden", "sliding_window", "global_every", "nope_every",
                     "rope_original_context", "n_expert_active", "max_ngram",
                     "ngram_rows"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        if self.head_dim is None and self.n_embd % self.n_head:
            raise UserError(
                f"n_embd {self.n_embd} can't be divided into n_head {self.n_head} heads: "
                f"choose a multiple of n_head as n_embd, or give head_dim"
            )
        if self.n_head % self.key_value_heads:
            raise UserError(
                f"n_head {self.n_head} query heads can't share n_kv_head {self.key_value_heads} "
                f"key and value heads: choose a multiple of n_kv_head as n_head"
            )
        for name in ("dropout", "ngram_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 <= {name} < 1")
        for name, least in (("norm_eps", 0), ("logit_softcap", 0), ("rope_theta", 1)):
            value = getattr(self, name)
            if value is not None and not least < value < math.inf:
                raise UserError(f"{name} is {value}: expected more than {least}, and finite")
        if self.global_every is not None and self.sliding_window is None:
            raise UserError(
                f"global_every is {self.global_every} without a sliding window: give "
                f"--sliding-window too"
            )
        self._check_positions()
        self._check_experts()

    @property
    def head_width(self) -> int:
        """D, the width of a head."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim

    @property
    def key_value_heads(self) -> int:
        """G, the number of key and value heads."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def hidden_width(self) -> int:
        """F, the width of the MLP, or of each expert."""
        if self.n_hidden is not None:
            return self.n_hidden
        if self.activation == "swiglu":
            return -(-8 * self.n_embd // (3 * 64)) * 64
        return 4 * self.n_embd

    def layer_window(self, layer: int) -> int | None:
        """Return how many tokens layer `layer` sees, counted from 0; None if it sees all."""
        if self.global_every is not None and (layer + 1) % self.global_every == 0:
            return None
        return self.sliding_window

    def layer_rotates(self, layer: int) -> bool:
        """Return whether layer `layer`, counted from 0, has rotary positions."""
        is_nope = self.nope_every is not None and (layer + 1) % self.nope_every == 0
        return self.positions == "rotary" and not is_nope

    @property
    def original_context(self) -> int:
        """The context before rotary positions were stretched."""
        return self.rope_original_context or round(self.block_size / self.rope_factor)

    def _check_types(self) -> None:
        """Raise UserError for a value of another type. Convert whole floats, as in JSON, to int."""
        for field in fields(self):
            kind, _, optional = field.type.partition(" | ")
            value = getattr(self, field.name)
            if optional and value is None:
                continue
            if kind == "bool":
                check_bool(field.name, value)
            elif kind == "int":
                whole = int(value) if isinstance(value, float) and value.is_integer() else value
                object.__setattr__(self, field.name, as_int64(field.name, whole))
            elif kind == "float":
                object.__setattr__(self, field.name, as_float(field.name, value))

    def _check_choices(self) -> None:
        choices = {"architecture": Architecture, "norm": Norm, "positions": Positions,
                   "rope_scaling": RopeScaling, "activation": Activation,
                   "expert_balance": ExpertBalance}  # fmt: skip
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                raise UserError(
                    f"unknown {name} {getattr(self, name)!r}: "
                    f"expected one of {', '.join(get_args(choice))}"
                )

    def _check_positions(self) -> None:
        if self.positions == "rotary" and self.head_width % 2:
            raise UserError(
                f"rotary positions rotate pairs of channels, but a head has {self.head_width}: "
                f"choose an even head_dim, or an even n_embd / n_head"
            )
        if self.nope_every is not None and self.positions != "rotary":
            raise UserError(
                f"nope_every is {self.nope_every}, but positions is {self.positions!r}: only "
                f"'rotary' positions can be left out of a layer"
            )
        if self.rope_scaling != "none" and self.positions != "rotary":
            raise UserError(
                f"rope_scaling is {self.rope_scaling!r}, but positions is {self.positions!r}: "
                f"only 'rotary' positions can be stretched"
            )
        if not 1 <= self.rope_factor < math.inf:
            raise UserError(f"rope_factor is {self.rope_factor}: expected at least 1, and finite")
        if (self.rope_factor > 1) != (self.rope_scaling != "none"):
            raise UserError(
                f"rope_factor is {self.rope_factor} and rope_scaling {self.rope_scaling!r}: "
                f"expected a factor above 1 with 'ntk', 'yarn' or 'llama3', and 1 with 'none'"
            )
        if self.rope_scaling not in ("yarn", "llama3"):
            if self.rope_original_context is not None:
                raise UserError(
                    f"rope_original_context is {self.rope_original_context}, but rope_scaling is "
                    f"{self.rope_scaling!r}: only 'yarn' and 'llama3' use it"
                )
        elif self.original_context < 1:
            raise UserError(
                f"rope_factor is {self.rope_factor} with block_size {self.block_size}: the trained "
                f"context would be shorter than one token; choose a smaller factor"
            )

    def _check_experts(self) -> None:
        if self.n_expert == 0:
            return
        if not 2 <= self.n_expert_active <= self.n_expert:
            raise UserError(
                f"n_expert_active is {self.n_expert_active} of n_expert {self.n_expert}: "
                f"expected 2 to n_expert, because the router learns from weighing several experts"
            )
        if self.bias:
            raise UserError("experts have no biases: give bias=False (--no-bias) with n_expert")
        if self.n_embd % 8 or self.hidden_width % 8:
            raise UserError(
                f"n_embd is {self.n_embd} and the experts are {self.hidden_width} wide: "
                f"expected multiples of 8, which PyTorch's grouped matrix product requires"
            )
        if not 0 <= self.expert_balance_rate < math.inf:
            raise UserError(
                f"expert_balance_rate is {self.expert_balance_rate}: expected 0 or more, and finite"
            )
