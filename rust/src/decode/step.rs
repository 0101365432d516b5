//! The transformer: what all threads do in a step, part by part.
//!
//! Legend: n new tokens, C width of the residual stream, H query heads, G key and value heads, D
//! head width, F width of the MLP, V vocabulary.

use std::ops::Range;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use super::cache::{Cache, Place};
use super::math;
use super::rows::{Row, texts};
use super::shared::Shared;
use super::threads::{self, Worker};
use super::weights::{Linear, add_row};
use super::{Decoder, Layer, Mlp};
use crate::error::Error;

/// A thread reads at least this many bytes of weights: starting it for fewer takes longer.
const BYTES_PER_THREAD: usize = 2 << 20;

/// Number of threads that the system lets run at once.
static N_CPUS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// Multiplies by this to hash n-grams, as `model/ngrams.py` does.
const HASH_MULTIPLIER: i64 = 0x9e37_79b1;

impl Decoder {
    /// Append tokens to some rows; write the logits after each token to `logits` (n, V).
    ///
    /// Several tokens of one row stand together, in the order of their positions. Each gets the logits
    /// that it would get in a separate step.
    ///
    /// # Errors
    /// Fails if an id, a row or a position is beyond the vocabulary, the cache or the context, or if the
    /// tokens of a row are apart or not at consecutive positions.
    ///
    /// # Safety
    /// The weights must still lie where they were, the cache must be as `Cache` says, and nothing else may
    /// write to either, or use these rows of the cache.
    pub unsafe fn step(
        &self,
        rows: &[Row],
        cache: &Cache,
        n_threads: usize,
        logits: &mut [f32],
    ) -> Result<(), Error> {
        let (c, n) = (&self.config, rows.len());
        for row in rows {
            cache.check(c, row.row, row.position)?;
            if row.id >= c.vocab_size {
                let (id, most) = (row.id, c.vocab_size - 1);
                return Err(Error::Shape(format!("id {id}: expected 0 to {most}")));
            }
        }
        let texts = texts(rows)?;
        if logits.len() != n * c.vocab_size {
            return Err(Error::Shape(format!("{} logits", logits.len())));
        }
        let (heads, k) = (
            c.n_head + 2 * c.n_kv_head,
            if c.n_expert == 0 {
                1
            } else {
                c.n_expert_active
            },
        );
        let fan_out = self.layers.iter().map(Layer::fan_out).max().unwrap_or(1);
        let mut buffers = [
            (n, c.n_embd),
            (n, heads * c.head_width),
            (n, c.n_head * c.head_width),
            (n * k, fan_out),
            (n * k, c.n_embd),
            (n, 2 * k),
        ]
        .map(|(rows, width)| (vec![0.0; rows * width], width));
        let [stream, qkv, mixed, hidden, out, choices] = buffers
            .each_mut()
            .map(|(values, width)| Shared::new(values, *width));
        let step = Step {
            decoder: self,
            cache,
            rows,
            texts,
            stream,
            qkv,
            mixed,
            hidden,
            out,
            choices,
            logits: Shared::new(logits, c.vocab_size),
        };
        let n_threads = n_threads
            .min(*N_CPUS)
            .min(self.n_bytes / BYTES_PER_THREAD)
            .max(1);
        let n_parts = 2 + 6 * self.layers.len();
        threads::run(n_threads, n_parts, |worker| step.run(worker));
        Ok(())
    }
}

/// What the threads of a step share.
pub struct Step<'a> {
    pub decoder: &'a Decoder,
    cache: &'a Cache,
    pub rows: &'a [Row],
    /// For each row of the cache, where its tokens are in `rows`.
    texts: Vec<Range<usize>>,
    /// The residual stream, (n, C).
    pub stream: Shared<'a>,
    /// Queries, keys and values, (n, (H + 2 G) D).
    qkv: Shared<'a>,
    /// What attention returns, (n, H D).
    mixed: Shared<'a>,
    /// Hidden units of the MLP, (n, F), or (n, 2 F) with a gate. Experts use K n rows, one for each choice.
    pub hidden: Shared<'a>,
    /// What is added to the residual stream, (n, C). Experts use K n rows.
    pub out: Shared<'a>,
    /// For each chosen expert its number and its weight, (n, 2 K).
    choices: Shared<'a>,
    /// The result, (n, V).
    logits: Shared<'a>,
}

// Each part of a step reads some of these matrices and writes others, at places that belong to the unit
// of work. That makes all the unsafe blocks below sound: see `Shared`.
impl Step<'_> {
    fn run(&self, worker: &mut Worker<'_>) {
        let d = self.decoder;
        worker.each(self.rows.len(), |n| self.embed(n));
        for (i, layer) in d.layers.iter().enumerate() {
            self.product(
                worker,
                &layer.qkv,
                |n, x| self.normed(&layer.norm_1, n, x),
                &self.qkv,
                |_, _| (),
            );
            let mut scores = Vec::new();
            let (groups, n_mixed) = (d.config.n_kv_head, layer.attention_out.weight.columns());
            worker.each(self.texts.len() * groups, |unit| {
                // One after another: a token sees those before it, and in a ring it overwrites an old one.
                for n in self.texts[unit / groups].clone() {
                    self.attend(i, layer, n, unit % groups, &mut scores);
                }
            });
            self.product(
                worker,
                &layer.attention_out,
                |n, x| {
                    // SAFETY: this part only reads it.
                    let mixed = unsafe { self.mixed.read(n, 0..n_mixed) };
                    x.extend_from_slice(mixed);
                },
                &self.out,
                |n, columns| self.add_to_stream(n, columns),
            );
            match &layer.mlp {
                Mlp::Dense { up, down } => self.mlp(worker, layer, up, down),
                Mlp::Experts(experts) => experts.run(self, worker, &layer.norm_2),
            }
        }
        let head = Linear {
            weight: d.head,
            bias: None,
        };
        self.product(
            worker,
            &head,
            |n, x| self.normed(&d.final_norm, n, x),
            &self.logits,
            |n, columns| {
                if let Some(cap) = d.config.logit_softcap {
                    // SAFETY: these logits belong to this unit.
                    math::soft_cap(unsafe { self.logits.write(n, columns) }, cap);
                }
            },
        );
    }

    /// Begin the residual stream of a token: the sum of its embeddings.
    fn embed(&self, n: usize) {
        let (d, c, row) = (self.decoder, &self.decoder.config, self.rows[n]);
        // SAFETY: this row belongs to this unit, and `check` has accepted the row and the position.
        let x = unsafe {
            self.cache
                .store_id(c.block_size, row.row, row.position, row.id);
            self.stream.write(n, 0..c.n_embd)
        };
        add_row(&d.token_embedding, row.id, x);
        if let Some(table) = &d.ngram_embedding {
            let mut hash = row.id as i64;
            for back in 1..c.max_ngram {
                let token = self.id_before(n, back);
                hash = hash.wrapping_mul(HASH_MULTIPLIER).wrapping_add(token + 1);
                let place = (hash ^ (hash >> 32)).rem_euclid(c.ngram_rows as i64) as usize;
                add_row(table, place + (back - 1) * c.ngram_rows, x);
            }
        }
        if let Some(table) = &d.position_embedding {
            add_row(table, row.position, x);
        }
        if let Some(norm) = &d.embedding_norm {
            self.norm(norm, x);
        }
    }

    /// Return the id `back` places before a new token; V before the text.
    fn id_before(&self, n: usize, back: usize) -> i64 {
        let (c, row) = (&self.decoder.config, self.rows[n]);
        // Another thread may be storing the ids of this step.
        if let Some(other) = n.checked_sub(back).map(|i| self.rows[i])
            && other.row == row.row
        {
            return other.id as i64;
        }
        match row.position.checked_sub(back) {
            // SAFETY: `check` has accepted the row and a later position, and an earlier step stored it.
            Some(position) => unsafe { self.cache.id(c.block_size, row.row, position) },
            None => c.vocab_size as i64,
        }
    }

    /// Normalise queries and the key of a head, rotate them, store the key and the value, and attend.
    fn attend(&self, i: usize, layer: &Layer, n: usize, head: usize, scores: &mut Vec<f32>) {
        let (d, c, row) = (self.decoder, &self.decoder.config, self.rows[n]);
        let (D, per_group) = (c.head_width, c.n_head / c.n_kv_head);
        let of = |first: usize, count: usize| first * D..(first + count) * D;
        // SAFETY: these heads belong to this unit.
        let [queries, key, value] = unsafe {
            [
                self.qkv.write(n, of(head * per_group, per_group)),
                self.qkv.write(n, of(c.n_head + head, 1)),
                self.qkv.write(n, of(c.n_head + c.n_kv_head + head, 1)),
            ]
        };
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            for query in queries.chunks_exact_mut(D) {
                q_norm.with(|weight| math::rms_norm(query, weight, c.norm_eps));
            }
            k_norm.with(|weight| math::rms_norm(key, weight, c.norm_eps));
        }
        if let Some((cos, sin)) = d.rotation.filter(|_| layer.rotates) {
            let P = cos.len() / c.block_size;
            let angles = row.position * P..(row.position + 1) * P;
            for vector in queries.chunks_exact_mut(D).chain([&mut *key]) {
                math::rotate(vector, &cos[angles.clone()], &sin[angles.clone()]);
            }
        }
        let place = Place {
            layer: i,
            row: row.row,
            head,
            n_heads: c.n_kv_head,
            position: row.position,
            window: layer.window,
        };
        // SAFETY: this row and head of the cache, and these columns, belong to this unit.
        unsafe {
            let mixed = self.mixed.write(n, of(head * per_group, per_group));
            self.cache.attend(place, queries, key, value, scores, mixed);
        }
    }

    /// Add what a product has written to the residual stream.
    pub fn add_to_stream(&self, n: usize, columns: Range<usize>) {
        // SAFETY: these columns belong to this unit.
        unsafe {
            math::add(
                self.stream.write(n, columns.clone()),
                self.out.read(n, columns),
            );
        }
    }

    /// Remember that the k-th expert of a row is `expert`.
    pub fn choose(&self, n: usize, k: usize, expert: usize, weight: f32) {
        // SAFETY: the choices of a row belong to one unit.
        let place = unsafe { self.choices.write(n, 2 * k..2 * k + 2) };
        place.copy_from_slice(&[expert as f32, weight]);
    }

    /// Return the k-th expert of a row, and its weight.
    pub fn choice(&self, n: usize, k: usize) -> (usize, f32) {
        // SAFETY: only an earlier part writes choices.
        let place = unsafe { self.choices.read(n, 2 * k..2 * k + 2) };
        (place[0] as usize, place[1])
    }
}
