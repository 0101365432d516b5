//! One step of a GPT, for Python.

use std::collections::HashMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::work::to_py_err;
use crate::decode::{self, Activation, CacheLayer, NormKind, Row, Tensor, Tensors};
use crate::error::catch_panics;

/// What a decoder needs of `gptfast.model.config.ModelConfig`.
#[derive(FromPyObject)]
pub struct Config {
    vocab_size: usize,
    block_size: usize,
    n_layer: usize,
    n_head: usize,
    key_value_heads: usize,
    head_width: usize,
    n_embd: usize,
    hidden_width: usize,
    norm: String,
    norm_eps: f32,
    activation: String,
    sliding_window: Option<usize>,
    global_every: Option<usize>,
    positions: String,
    nope_every: Option<usize>,
    logit_softcap: Option<f32>,
    max_ngram: usize,
    ngram_rows: usize,
    n_expert: usize,
    n_expert_active: usize,
}

/// The fields of `ModelConfig` that a decoder doesn't read: the tensors show them, or a step is the same
/// with any value.
const OTHER_FIELDS: [&str; 19] = [
    "architecture",
    "bias",
    "causal",
    "dropout",
    "embedding_norm",
    "expert_balance",
    "expert_balance_rate",
    "head_dim",
    "n_hidden",
    "n_kv_head",
    "ngram_dropout",
    "qk_norm",
    "qkv_bias",
    "rope_factor",
    "rope_original_context",
    "rope_scaling",
    "rope_theta",
    "tie_embeddings",
    "zero_init",
];
/// The fields that a decoder reads.
const FIELDS: [&str; 17] = [
    "activation",
    "block_size",
    "global_every",
    "logit_softcap",
    "max_ngram",
    "n_embd",
    "n_expert",
    "n_expert_active",
    "n_head",
    "n_layer",
    "ngram_rows",
    "nope_every",
    "norm",
    "norm_eps",
    "positions",
    "sliding_window",
    "vocab_size",
];

/// Fail if the configuration has a field that this version does not know, and would ignore.
fn check_fields(config: &Bound<'_, PyAny>) -> PyResult<()> {
    let fields = config.getattr("__dict__")?.cast_into::<PyDict>()?;
    for name in fields.keys() {
        let name: String = name.extract()?;
        if !FIELDS.contains(&name.as_str()) && !OTHER_FIELDS.contains(&name.as_str()) {
            return Err(PyValueError::new_err(format!(
                "the Rust extension does not know {name}, a setting of the model: `make build`"
            )));
        }
    }
    Ok(())
}

impl Config {
    fn to_rust(&self) -> PyResult<decode::Config> {
        let unknown = |what: &str| Err(PyValueError::new_err(format!("unknown: {what}")));
        let window = |layer: usize| match self.global_every {
            Some(n) if (layer + 1).is_multiple_of(n) => None,
            _ => self.sliding_window,
        };
        let rotates = |layer: usize| {
            let is_nope = |n| (layer + 1).is_multiple_of(n);
            self.positions == "rotary" && !self.nope_every.is_some_and(is_nope)
        };
        Ok(decode::Config {
            vocab_size: self.vocab_size,
            block_size: self.block_size,
            n_head: self.n_head,
            n_kv_head: self.key_value_heads,
            head_width: self.head_width,
            n_embd: self.n_embd,
            hidden_width: self.hidden_width,
            norm: match self.norm.as_str() {
                "layernorm" => NormKind::Layer,
                "rmsnorm" => NormKind::Rms,
                norm => return unknown(norm),
            },
            norm_eps: self.norm_eps,
            activation: match self.activation.as_str() {
                "gelu" => Activation::Gelu,
                "gelu_exact" => Activation::GeluExact,
                "swiglu" => Activation::Swiglu,
                "relu2" => Activation::Relu2,
                activation => return unknown(activation),
            },
            windows: (0..self.n_layer).map(window).collect(),
            rotates: (0..self.n_layer).map(rotates).collect(),
            logit_softcap: self.logit_softcap,
            max_ngram: self.max_ngram,
            ngram_rows: self.ngram_rows,
            n_expert: self.n_expert,
            n_expert_active: self.n_expert_active,
        })
    }
}

/// A GPT on the CPU. It reads the weights where they are, so the caller keeps them alive.
#[pyclass(module = "gptfast._rust", frozen)]
pub struct Decoder(decode::Decoder);

#[pymethods]
impl Decoder {
    #[new]
    fn new(
        py: Python<'_>,
        config: &Bound<'_, PyAny>,
        tensors: HashMap<String, (usize, String, usize, usize)>,
    ) -> PyResult<Self> {
        let tensors = tensors.into_iter().map(|(name, tensor)| {
            let (address, kind, rows, columns) = tensor;
            let tensor = Tensor {
                address,
                kind,
                rows,
                columns,
            };
            (name, tensor)
        });
        // SAFETY: model/rust_step.py keeps aliases of the tensors as long as the decoder, so their memory
        // stays where it is. A thread that writes to weights during a step gets wrong logits, as in PyTorch.
        let tensors = unsafe { Tensors::new(tensors.collect()) };
        check_fields(config)?;
        let config = config.extract::<Config>()?.to_rust()?;
        // Moving the weights to huge pages may take seconds.
        py.detach(|| catch_panics(|| decode::Decoder::new(config, tensors)))
            .map(Decoder)
            .map_err(to_py_err)
    }

    /// Append `ids[i]` to row `rows[i]` of the cache, which has `lengths[rows[i]]` tokens. Several ids of
    /// one row stand together. Write the logits to the float32 (n, V) at the address `logits`.
    #[expect(clippy::too_many_arguments)]
    fn step(
        &self,
        py: Python<'_>,
        ids: Vec<usize>,
        rows: Vec<usize>,
        lengths: Vec<usize>,
        cache: &Cache,
        n_threads: usize,
        logits: usize,
    ) -> PyResult<()> {
        let fail = |what: &str| PyValueError::new_err(what.to_string());
        if ids.len() != rows.len() || ids.is_empty() {
            return Err(fail("expected an id for each row"));
        }
        let batch = ids.iter().zip(&rows).enumerate().map(|(i, (&id, &row))| {
            let length = *lengths
                .get(row)
                .ok_or_else(|| fail("a row without length"))?;
            let n_before = rows[..i].iter().filter(|&&other| other == row).count();
            Ok(Row {
                id,
                row,
                position: length + n_before,
            })
        });
        let batch = batch.collect::<PyResult<Vec<Row>>>()?;
        let n_logits = batch.len() * self.0.config().vocab_size;
        py.detach(|| {
            catch_panics(|| {
                // SAFETY: Python's caller has allocated that many logits there, and keeps the tensors and
                // the cache alive and unchanged until this returns.
                unsafe {
                    let logits = std::slice::from_raw_parts_mut(logits as *mut f32, n_logits);
                    self.0.step(&batch, &cache.0, n_threads, logits)
                }
            })
        })
        .map_err(to_py_err)
    }
}

/// Where the keys and values of a `KVCache` are. The caller keeps them alive.
#[pyclass(module = "gptfast._rust", frozen)]
pub struct Cache(decode::Cache);

#[pymethods]
impl Cache {
    /// config: that of the model. layers: (address of the keys, of the values, capacity) of each layer. ids:
    /// address of the ids.
    #[new]
    fn new(
        config: Config,
        layers: Vec<(usize, usize, usize)>,
        n_rows: usize,
        ids: usize,
        is_bf16: bool,
    ) -> Self {
        let layers = layers
            .into_iter()
            .map(|(keys, values, capacity)| CacheLayer {
                keys,
                values,
                capacity,
            });
        Cache(decode::Cache {
            layers: layers.collect(),
            n_kv_head: config.key_value_heads,
            head_width: config.head_width,
            block_size: config.block_size,
            n_rows,
            ids,
            is_bf16,
        })
    }
}
