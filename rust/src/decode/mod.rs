//! One step of a GPT on a CPU: from the newest tokens of some texts to the logits of the next.
//!
//! A [`Decoder`] reads the weights where PyTorch keeps them. [`Decoder::step`] computes what
//! `GPT.step` defines in Python (`python/gptfast/model/transformer.py`), with activations in float32.
//! Its parts are done one after the other by all [threads]; [`step`] has the transformer itself.
//!
//! Tokens are computed each on its own, and every value by one thread in a fixed order. So the logits
//! depend neither on the number of threads nor on the other tokens of a step, bit by bit: a token that
//! is one of several of its text gets what it would get alone, after a step for each token before it.

#![allow(non_snake_case)] // shapes have the letters that Python's code gives them

mod attention;
mod cache;
mod experts;
mod math;
mod products;
mod rows;
mod shared;
mod simd;
mod step;
mod threads;
mod weights;

pub use self::cache::{Cache, Layer as CacheLayer};
pub use self::rows::Row;
pub use self::weights::{Linear, Tensor, Tensors, Vector};

use crate::error::Error;
use crate::linear::Matrix;

/// How the residual stream is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Layer norm (Ba et al., 2016).
    Layer,
    /// RMS norm (Zhang and Sennrich, 2019).
    Rms,
}

/// Activation of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The tanh approximation of GELU.
    Gelu,
    /// GELU by the error function.
    GeluExact,
    /// silu(gate) * value.
    Swiglu,
    /// max(x, 0)^2.
    Relu2,
}

/// The shape of a GPT, with the names of `model/config.py`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of token ids, V.
    pub vocab_size: usize,
    /// Length of the context.
    pub block_size: usize,
    /// Number of query heads, H.
    pub n_head: usize,
    /// Number of key and value heads, G.
    pub n_kv_head: usize,
    /// Width of a head, D.
    pub head_width: usize,
    /// Width of the residual stream, C.
    pub n_embd: usize,
    /// Width of the MLP, F.
    pub hidden_width: usize,
    /// The norm.
    pub norm: NormKind,
    /// Added to the variance in the norms.
    pub norm_eps: f32,
    /// The activation.
    pub activation: Activation,
    /// For each layer, the number of positions that a token sees. None means all.
    pub windows: Vec<Option<usize>>,
    /// For each layer, whether it rotates queries and keys by their positions.
    pub rotates: Vec<bool>,
    /// Bound of the logits.
    pub logit_softcap: Option<f32>,
    /// Longest n-gram that has an embedding; 1 means none.
    pub max_ngram: usize,
    /// Rows in the table of each n.
    pub ngram_rows: usize,
    /// Number of experts, E; 0 means one MLP.
    pub n_expert: usize,
    /// Number of experts that process each token, K.
    pub n_expert_active: usize,
}

/// A GPT that is ready for steps.
pub struct Decoder {
    config: Config,
    token_embedding: Matrix<'static>,
    ngram_embedding: Option<Matrix<'static>>,
    position_embedding: Option<Matrix<'static>>,
    /// Cosines and sines of every position, (block_size, P) each.
    rotation: Option<(&'static [f32], &'static [f32])>,
    embedding_norm: Option<Norm>,
    layers: Vec<Layer>,
    final_norm: Norm,
    head: Matrix<'static>,
    /// Bytes of weights that a step reads.
    n_bytes: usize,
}

/// A norm's weights.
struct Norm {
    weight: Vector,
    bias: Option<Vector>,
}

/// A block of the transformer.
struct Layer {
    norm_1: Norm,
    qkv: Linear,
    /// Weights of the norms of queries and keys.
    qk_norm: Option<(Vector, Vector)>,
    attention_out: Linear,
    norm_2: Norm,
    mlp: Mlp,
    window: Option<usize>,
    rotates: bool,
}

/// The second half of a block.
enum Mlp {
    Dense { up: Linear, down: Linear },
    Experts(experts::Experts),
}

impl Decoder {
    /// Prepare a model whose tensors have the names of `GPT.named_parameters()`; and `rotation.cos` and
    /// `rotation.sin` if positions are rotary.
    ///
    /// # Errors
    /// Fails if a tensor is missing, unknown or of another shape.
    pub fn new(config: Config, mut tensors: Tensors) -> Result<Self, Error> {
        let (c, t) = (&config, &mut tensors);
        let (V, C, T, D) = (c.vocab_size, c.n_embd, c.block_size, c.head_width);
        let token_embedding = t.take("wte.weight", V, C)?;
        let ngram_rows = (c.max_ngram - 1) * c.ngram_rows;
        let ngram_embedding = t.maybe("wne.weight", ngram_rows, C)?;
        let position_embedding = t.maybe("wpe.weight", T, C)?;
        let rotation =
            t.floats("rotation.cos", T, D / 2)?
                .zip(t.floats("rotation.sin", T, D / 2)?);
        let embedding_norm = match t.vector("ln_emb.weight", C)? {
            Some(weight) => Some(Norm {
                weight,
                bias: t.vector("ln_emb.bias", C)?,
            }),
            None => None,
        };
        let layers = (c.windows.iter().enumerate())
            .map(|(i, &window)| Layer::new(c, t, &format!("h.{i}"), window, c.rotates[i]))
            .collect::<Result<Vec<_>, Error>>()?;
        let final_norm = Norm::new(t, "ln_f", C)?;
        let head = t.maybe("lm_head.weight", V, C)?.unwrap_or(token_embedding);
        tensors.finish()?;
        let n_bytes = head.n_bytes() + layers.iter().map(Layer::n_bytes).sum::<usize>();
        Ok(Decoder {
            token_embedding,
            ngram_embedding,
            position_embedding,
            rotation,
            embedding_norm,
            layers,
            final_norm,
            head,
            n_bytes,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Norm {
    fn new(tensors: &mut Tensors, name: &str, width: usize) -> Result<Self, Error> {
        let weight = tensors.vector(&format!("{name}.weight"), width)?;
        Ok(Norm {
            weight: weight.ok_or_else(|| Error::Shape(format!("the norm {name} is missing")))?,
            bias: tensors.vector(&format!("{name}.bias"), width)?,
        })
    }
}

impl Layer {
    fn new(
        c: &Config,
        t: &mut Tensors,
        name: &str,
        window: Option<usize>,
        rotates: bool,
    ) -> Result<Self, Error> {
        let (C, D, F) = (c.n_embd, c.head_width, c.hidden_width);
        let fan_out = if c.activation == Activation::Swiglu {
            2 * F
        } else {
            F
        };
        let q_norm = t.vector(&format!("{name}.attn.q_norm.weight"), D)?;
        let k_norm = t.vector(&format!("{name}.attn.k_norm.weight"), D)?;
        Ok(Layer {
            norm_1: Norm::new(t, &format!("{name}.ln_1"), C)?,
            qkv: t.linear(
                &format!("{name}.attn.c_attn"),
                (c.n_head + 2 * c.n_kv_head) * D,
                C,
            )?,
            qk_norm: q_norm.zip(k_norm),
            attention_out: t.linear(&format!("{name}.attn.c_proj"), C, c.n_head * D)?,
            norm_2: Norm::new(t, &format!("{name}.ln_2"), C)?,
            mlp: if c.n_expert == 0 {
                Mlp::Dense {
                    up: t.linear(&format!("{name}.mlp.c_fc"), fan_out, C)?,
                    down: t.linear(&format!("{name}.mlp.c_proj"), C, F)?,
                }
            } else {
                Mlp::Experts(experts::Experts::new(
                    c,
                    t,
                    &format!("{name}.mlp"),
                    fan_out,
                )?)
            },
            window,
            rotates,
        })
    }

    /// Number of hidden units, of the gate too.
    fn fan_out(&self) -> usize {
        match &self.mlp {
            Mlp::Dense { up, .. } => up.weight.rows(),
            Mlp::Experts(experts) => experts.fan_out(),
        }
    }

    fn n_bytes(&self) -> usize {
        let mlp = match &self.mlp {
            Mlp::Dense { up, down } => up.weight.n_bytes() + down.weight.n_bytes(),
            Mlp::Experts(experts) => experts.n_bytes(),
        };
        self.qkv.weight.n_bytes() + self.attention_out.weight.n_bytes() + mlp
    }
}
