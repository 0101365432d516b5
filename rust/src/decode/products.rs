//! Products of all rows of a step, and what surrounds them: norms, biases, activations.
//!
//! Each function is a part of a step, or a piece of one. A unit of work is some columns of the result.

use std::ops::Range;

use super::math;
use super::shared::Shared;
use super::step::Step;
use super::threads::Worker;
use super::weights::Linear;
use super::{Activation, Layer, Norm, NormKind};
use crate::linear::{Activations, Matrix, TILE, multiply};

/// A thread claims at most about this many bytes of a matrix at once.
const UNIT_BYTES: usize = 256 << 10;

impl Step<'_> {
    /// Multiply each row's vector by a matrix and add the bias.
    ///
    /// `input` appends the vector of a row. `finish` is called for the columns of a row of `out` that are
    /// there.
    pub fn product(
        &self,
        worker: &mut Worker<'_>,
        linear: &Linear,
        input: impl Fn(usize, &mut Vec<f32>),
        out: &Shared<'_>,
        finish: impl Fn(usize, Range<usize>),
    ) {
        let rows = linear.weight.rows();
        let size = unit_rows(&linear.weight, worker.n_threads);
        let mut x = None;
        worker.each(rows.div_ceil(size), |unit| {
            let x = x.get_or_insert_with(|| self.activations(&linear.weight, &input));
            let range = unit * size..rows.min((unit + 1) * size);
            self.multiply(linear, range.clone(), x, out);
            for n in 0..self.rows.len() {
                finish(n, range.clone());
            }
        });
    }

    /// Prepare the vectors of all rows for a matrix.
    pub fn activations(
        &self,
        matrix: &Matrix<'_>,
        input: impl Fn(usize, &mut Vec<f32>),
    ) -> Activations {
        let mut floats = Vec::with_capacity(self.rows.len() * matrix.columns());
        for n in 0..self.rows.len() {
            input(n, &mut floats);
        }
        let mut x = Activations::new(matrix);
        x.set(&floats);
        x
    }

    /// Compute some columns of a product of all rows, with the bias.
    fn multiply(&self, linear: &Linear, columns: Range<usize>, x: &Activations, out: &Shared<'_>) {
        // SAFETY: these columns belong to this unit.
        unsafe {
            multiply(
                &linear.weight,
                columns.clone(),
                x,
                &out.output(0, self.rows.len()),
            )
        };
        if let Some(bias) = &linear.bias {
            for n in 0..self.rows.len() {
                // SAFETY: these columns belong to this unit.
                bias.add_to(unsafe { out.write(n, columns.clone()) }, columns.start);
            }
        }
    }

    /// Add to the residual stream what the MLP returns.
    pub fn mlp(&self, worker: &mut Worker<'_>, layer: &Layer, up: &Linear, down: &Linear) {
        let F = down.weight.columns();
        let size = unit_rows(&up.weight, worker.n_threads).min(F);
        let mut x = None;
        worker.each(F.div_ceil(size), |unit| {
            let x = x.get_or_insert_with(|| {
                self.activations(&up.weight, |n, x| self.normed(&layer.norm_2, n, x))
            });
            let range = unit * size..F.min((unit + 1) * size);
            for first in (0..up.weight.rows()).step_by(F) {
                self.multiply(up, first + range.start..first + range.end, x, &self.hidden);
            }
            for n in 0..self.rows.len() {
                self.activate(n, F, range.clone());
            }
        });
        self.product(
            worker,
            down,
            // SAFETY: this part only reads it.
            |n, x| x.extend_from_slice(unsafe { self.hidden.read(n, 0..F) }),
            &self.out,
            |n, columns| self.add_to_stream(n, columns),
        );
    }

    /// Apply the activation to some of the F hidden units of a row.
    pub fn activate(&self, row: usize, F: usize, columns: Range<usize>) {
        // SAFETY: these columns belong to this unit.
        let hidden = unsafe { self.hidden.write(row, columns.clone()) };
        match self.decoder.config.activation {
            Activation::Gelu => math::gelu(hidden),
            Activation::GeluExact => math::gelu_exact(hidden),
            Activation::Relu2 => math::relu2(hidden),
            Activation::Swiglu => {
                // SAFETY: the values of these gates belong to this unit, too.
                let values = unsafe { self.hidden.read(row, F + columns.start..F + columns.end) };
                math::swiglu(hidden, values);
            }
        }
    }

    /// Append the normalised residual stream of a row.
    pub fn normed(&self, norm: &Norm, n: usize, x: &mut Vec<f32>) {
        let start = x.len();
        // SAFETY: what normalises the stream only reads it.
        x.extend_from_slice(unsafe { self.stream.read(n, 0..self.decoder.config.n_embd) });
        self.norm(norm, &mut x[start..]);
    }

    /// Normalise the residual stream of a row.
    pub fn norm(&self, norm: &Norm, x: &mut [f32]) {
        let c = &self.decoder.config;
        norm.weight.with(|weight| match (c.norm, &norm.bias) {
            (NormKind::Rms, _) => math::rms_norm(x, weight, c.norm_eps),
            (NormKind::Layer, None) => math::layer_norm(x, weight, None, c.norm_eps),
            (NormKind::Layer, Some(bias)) => {
                bias.with(|bias| math::layer_norm(x, weight, Some(bias), c.norm_eps));
            }
        });
    }
}

/// Return how many rows of a matrix a thread claims at once: so few that the threads finish at about the
/// same time, even if the system stops one of them for a while.
pub fn unit_rows(matrix: &Matrix<'_>, n_threads: usize) -> usize {
    if n_threads == 1 {
        return matrix.rows();
    }
    let n_units = (4 * n_threads).max(matrix.n_bytes() / UNIT_BYTES);
    matrix.rows().div_ceil(n_units).next_multiple_of(TILE)
}
