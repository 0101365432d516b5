"""What a model is, in numbers: one transformer, the field's choices as fields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from gptfast.errors import UserError

Architecture = Literal["bigram", "average", "head", "multihead", "gpt"]
Norm = Literal["layernorm", "rmsnorm"]
Positions = Literal["learned", "rotary", "none"]
RopeScaling = Literal["none", "ntk", "yarn"]
Activation = Literal["gelu", "gelu_exact", "swiglu", "relu2"]
ExpertBalance = Literal["loss", "bias"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; the defaults are GPT-2's. Raises UserError for shapes that can't exist.

    The rungs below the GPT (model/baselines.py) ignore the fields of parts that they don't have.
    """

    vocab_size: int
    """Number of token ids, the width of the logits. A tokenizer that is trained gets so many."""
    architecture: Architecture = "gpt"
    """'gpt' is the transformer; the others are the rungs that lead to it (model/baselines.py)."""
    block_size: int = 1024
    """Context length: the most tokens that the model sees at once."""
    n_layer: int = 12
    """Number of transformer blocks."""
    n_head: int = 12
    """Attention heads per block; must divide n_embd."""
    n_embd: int = 768
    """Width C of the residual stream."""
    dropout: float = 0.0
    """Probability of zeroing an embedding, an attention weight or a block's output in training."""

    n_kv_head: int | None = None
    """Key and value heads, each shared by n_head / n_kv_head query heads; None for n_head."""
    qk_norm: bool = False
    """Normalise queries and keys per head (RMS norm), so that attention logits can't run away."""
    sliding_window: int | None = None
    """How many of the newest tokens a token sees, itself included; None for all."""
    global_every: int | None = None
    """With a sliding window, every global_every-th layer sees all tokens; None for no layer."""

    norm: Norm = "layernorm"
    """'layernorm' (GPT-2) or 'rmsnorm' (Llama), before each half of a block and at the end."""
    norm_eps: float = 1e-5
    """What the norms add to the variance."""
    bias: bool = True
    """Whether linear layers and layer norms have biases."""

    positions: Positions = "learned"
    """'learned' (a table, GPT-2), 'rotary' (RoPE, Llama) or 'none'."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling = "none"
    """How rotary positions are stretched to a context `rope_factor` times that of the training."""
    rope_factor: float = 1.0
    """How many times longer block_size is than the context that the weights were trained with."""

    activation: Activation = "gelu"
    """The MLP's: 'gelu' (GPT-2's, approximated by a tanh), 'gelu_exact' (nanoGPT), 'swiglu'
    (Llama) or 'relu2' (the square of ReLU, Primer)."""
    n_hidden: int | None = None
    """Width of the MLP; None for 4 n_embd, or with 'swiglu', which has 3 matrices, for 8/3 n_embd
    rounded up to a multiple of 64."""

    n_expert: int = 0
    """MLPs per block, between which a router chooses for each token; 0 for one MLP, no router."""
    n_expert_active: int = 2
    """Experts that a token goes to."""
    expert_balance: ExpertBalance = "loss"
    """What keeps experts equally busy: an auxiliary 'loss' (Switch) or a 'bias' (DeepSeek-V3)."""
    expert_balance_rate: float = 0.01
    """Weight of that loss, or step of that bias."""

    max_ngram: int = 1
    """Embed the 2-grams to max_ngram-grams that end at a token as well as it; 1 for none."""
    ngram_rows: int = 16384
    """Rows of the table for each n. A hash finds an n-gram's row, which it may share."""
    ngram_dropout: float = 0.0
    """Probability of leaving out a token's n-grams in training, all of them: rare ones are soon
    known by heart, and the model must do without them in new text."""
    tie_embeddings: bool = True
    """Whether the output matrix is the token embedding."""
    embedding_norm: bool = False
    """Normalise the embeddings before the first block."""
    zero_init: bool = False
    """Start with zeros where a block writes into the residual stream: at first it does nothing."""
    logit_softcap: float | None = None
    """Logits x become cap * tanh(x / cap) (Gemma 2); None for no cap."""

    def __post_init__(self) -> None:
        self._check_choices()
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_kv_head",
                     "n_hidden", "sliding_window", "global_every", "n_expert_active", "max_ngram",
                     "ngram_rows"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd {self.n_embd} can't be divided into n_head {self.n_head} heads: "
                f"choose n_embd as a multiple of n_head"
            )
        if self.n_head % self.key_value_heads:
            raise UserError(
                f"n_head {self.n_head} query heads can't share n_kv_head {self.key_value_heads} "
                f"key and value heads: choose n_head as a multiple of n_kv_head"
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
                f"global_every is {self.global_every}, but no layer has a --sliding-window"
            )
        self._check_positions()
        self._check_experts()

    @property
    def head_width(self) -> int:
        """D, the width of a head."""
        return self.n_embd // self.n_head

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
        """How many tokens layer `layer` (0 is the first) sees; None if all."""
        if self.global_every is not None and (layer + 1) % self.global_every == 0:
            return None
        return self.sliding_window

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
                f"rotary positions turn pairs of channels, but a head has {self.head_width}: "
                f"choose n_embd / n_head even"
            )
        if self.rope_scaling != "none" and self.positions != "rotary":
            raise UserError(
                f"rope_scaling is {self.rope_scaling!r}, but the positions are {self.positions!r}: "
                f"only rotary ones can be stretched"
            )
        if not 1 <= self.rope_factor < math.inf:
            raise UserError(f"rope_factor is {self.rope_factor}: expected at least 1, and finite")
        if (self.rope_factor > 1) != (self.rope_scaling != "none"):
            raise UserError(
                f"rope_factor is {self.rope_factor} and rope_scaling {self.rope_scaling!r}: "
                f"expected a factor above 1 with 'ntk' or 'yarn', and 1 with 'none'"
            )
        if self.rope_scaling == "yarn" and round(self.block_size / self.rope_factor) < 1:
            raise UserError(
                f"rope_factor {self.rope_factor} leaves nothing of block_size {self.block_size} "
                f"to have been trained with: choose a smaller one"
            )

    def _check_experts(self) -> None:
        if self.n_expert == 0:
            return
        if not 2 <= self.n_expert_active <= self.n_expert:
            raise UserError(
                f"n_expert_active is {self.n_expert_active} of n_expert {self.n_expert}: "
                f"expected no more than there are, and at least 2: a router learns by weighing them"
            )
        if self.bias:
            raise UserError("experts have no biases: give bias=False (--no-bias) with n_expert")
        if self.n_embd % 8 or self.hidden_width % 8:
            raise UserError(
                f"n_embd is {self.n_embd} and the experts are {self.hidden_width} wide: "
                f"expected multiples of 8, as PyTorch's grouped matrix product wants them"
            )
        if not self.expert_balance_rate >= 0:
            raise UserError(
                f"expert_balance_rate is {self.expert_balance_rate}: expected 0 or more"
            )
