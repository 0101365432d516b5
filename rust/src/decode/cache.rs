//! The keys and values of the past, in the memory of others.

use super::Config;
use super::attention::{Bf16, Element, attend};
use crate::error::Error;

/// The cache of all layers: `n_rows` rows, each of which continues one text.
pub struct Cache {
    /// For each layer.
    pub layers: Vec<Layer>,
    /// Number of key and value heads, G.
    pub n_kv_head: usize,
    /// Width of a head, D.
    pub head_width: usize,
    /// Number of ids of a row.
    pub block_size: usize,
    /// Number of rows, B.
    pub n_rows: usize,
    /// Address of the ids, int64 (B, block_size).
    pub ids: usize,
    /// Whether keys and values are bfloat16; otherwise they are float32.
    pub is_bf16: bool,
}

/// A layer of the cache. Position p lies at index p % `capacity`.
#[derive(Clone, Copy)]
pub struct Layer {
    /// Address of the keys, (B, G, capacity, D).
    pub keys: usize,
    /// Address of the values, shaped like the keys.
    pub values: usize,
    /// Number of positions that are kept.
    pub capacity: usize,
}

/// A place in the cache: one head of one row.
#[derive(Clone, Copy)]
pub struct Place {
    /// Number of the layer.
    pub layer: usize,
    /// The row, below `n_rows`.
    pub row: usize,
    /// The key and value head.
    pub head: usize,
    /// Number of key and value heads, G.
    pub n_heads: usize,
    /// Position of the new token.
    pub position: usize,
    /// Number of positions that the token sees. None means all.
    pub window: Option<usize>,
}

impl Cache {
    /// Check that a token of `row` at `position` has room in every layer.
    ///
    /// # Errors
    /// Fails if it hasn't.
    pub fn check(&self, config: &Config, row: usize, position: usize) -> Result<(), Error> {
        if row >= self.n_rows {
            return Err(Error::Shape(format!(
                "row {row} of a cache of {} rows",
                self.n_rows
            )));
        }
        let shape = (self.n_kv_head, self.head_width, self.block_size);
        if shape != (config.n_kv_head, config.head_width, config.block_size) {
            return Err(Error::Shape("a cache of another model".to_string()));
        }
        if self.layers.len() != config.windows.len() {
            return Err(Error::Shape(format!(
                "a cache of {} layers: expected {}",
                self.layers.len(),
                config.windows.len()
            )));
        }
        for (layer, window) in self.layers.iter().zip(&config.windows) {
            let needed = window.map_or(position + 1, |window| window.min(position + 1));
            if layer.capacity < needed || position >= config.block_size {
                return Err(Error::Shape(format!(
                    "position {position} in a context of {} and a cache of {}",
                    config.block_size, layer.capacity
                )));
            }
        }
        Ok(())
    }

    /// Return the id at a position of a row.
    ///
    /// # Safety
    /// `ids` must be the address of `n_rows` times `block_size` ids, and the place must be among them.
    pub unsafe fn id(&self, block_size: usize, row: usize, position: usize) -> i64 {
        // SAFETY: the caller promises it.
        unsafe { *(self.ids as *const i64).add(row * block_size + position) }
    }

    /// Store the id at a position of a row.
    ///
    /// # Safety
    /// As for `id`; and nothing else may use the place.
    pub unsafe fn store_id(&self, block_size: usize, row: usize, position: usize, id: usize) {
        // SAFETY: the caller promises it.
        unsafe { *(self.ids as *mut i64).add(row * block_size + position) = id as i64 };
    }

    /// Store a new key and value, and attend to them and to the past with several queries.
    ///
    /// Args:
    ///     queries: some queries of D floats each.
    ///     key, value: D floats each.
    ///     scores: memory that is used.
    ///     out: what attention gives for each query.
    ///
    /// # Safety
    /// The cache must be as described, `check` must have accepted the place, and nothing else may use
    /// this row and head meanwhile.
    pub unsafe fn attend(
        &self,
        place: Place,
        queries: &[f32],
        key: &[f32],
        value: &[f32],
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let layer = self.layers[place.layer];
        // SAFETY: the caller promises it.
        unsafe {
            if self.is_bf16 {
                layer.attend::<Bf16>(place, queries, key, value, scores, out);
            } else {
                layer.attend::<f32>(place, queries, key, value, scores, out);
            }
        }
    }
}

impl Layer {
    /// # Safety
    /// As for `Cache::attend`, and elements must be of type T.
    unsafe fn attend<T: Element>(
        &self,
        place: Place,
        queries: &[f32],
        key: &[f32],
        value: &[f32],
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (width, size) = (key.len(), self.capacity * key.len());
        let offset = (place.row * place.n_heads + place.head) * size;
        // SAFETY: the caller promises that the head is there and that nothing else uses it.
        let (keys, values) = unsafe {
            (
                std::slice::from_raw_parts_mut((self.keys as *mut T).add(offset), size),
                std::slice::from_raw_parts_mut((self.values as *mut T).add(offset), size),
            )
        };
        let newest = place.position % self.capacity * width;
        store(key, &mut keys[newest..][..width]);
        store(value, &mut values[newest..][..width]);
        let n_seen = (place.position + 1).min(place.window.unwrap_or(usize::MAX));
        let start = (place.position + 1 - n_seen) % self.capacity;
        let end = (start + n_seen).min(self.capacity);
        let wrapped = start + n_seen - end;
        let pieces = [start * width..end * width, 0..wrapped * width];
        let scale = 1.0 / (width as f32).sqrt();
        for (query, out) in queries.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let keys = pieces.clone().map(|piece| &keys[piece]);
            let values = pieces.clone().map(|piece| &values[piece]);
            attend(query, keys, values, scale, scores, out);
        }
    }
}

fn store<T: Element>(from: &[f32], to: &mut [T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::narrow(from);
    }
}
