//! Mixture of experts: many MLPs, of which each token uses a few (`model/moe.py`).

use super::products::unit_rows;
use super::step::Step;
use super::threads::Worker;
use super::weights::{Tensors, rows_of};
use super::{Config, Norm, math};
use crate::error::Error;
use crate::linear::{Activations, Matrix, Output, multiply};

/// E experts and the router that chooses K of them for each token.
pub struct Experts {
    router: Matrix<'static>,
    /// Added to the scores for the choice only.
    bias: Option<&'static [f32]>,
    up: Vec<Matrix<'static>>,
    down: Vec<Matrix<'static>>,
    n_active: usize,
}

impl Experts {
    /// Take the tensors of the experts, whose up-projections have `fan_out` rows.
    pub fn new(c: &Config, t: &mut Tensors, name: &str, fan_out: usize) -> Result<Self, Error> {
        let (E, C, F) = (c.n_expert, c.n_embd, c.hidden_width);
        let up = t.take(&format!("{name}.c_fc"), E * fan_out, C)?;
        let down = t.take(&format!("{name}.c_proj"), E * C, F)?;
        let each = |all: Matrix<'static>, rows: usize| {
            (0..E)
                .map(|e| rows_of(&all, e * rows, (e + 1) * rows))
                .collect()
        };
        Ok(Experts {
            router: t.take(&format!("{name}.router.weight"), E, C)?,
            bias: t.floats(&format!("{name}.bias_E"), 1, E)?,
            up: each(up, fan_out),
            down: each(down, C),
            n_active: c.n_expert_active,
        })
    }

    /// Number of hidden units of an expert, of the gate too.
    pub fn fan_out(&self) -> usize {
        self.up[0].rows()
    }

    /// Bytes of weights that one token reads.
    pub fn n_bytes(&self) -> usize {
        self.n_active * (self.up[0].n_bytes() + self.down[0].n_bytes())
    }

    /// Add to the residual stream what the experts return.
    pub fn run(&self, step: &Step<'_>, worker: &mut Worker<'_>, norm: &Norm) {
        let (n, K, F) = (step.rows.len(), self.n_active, self.down[0].columns());
        worker.each(n, |row| self.choose(step, row, norm));

        // A unit is some columns of the hidden units of one choice.
        let size = unit_rows(&self.up[0], worker.n_threads).min(F);
        let n_parts = F.div_ceil(size);
        let mut inputs: Vec<Option<Activations>> = vec![None; n];
        worker.each(n * K * n_parts, |unit| {
            let (choice, part) = (unit / n_parts, unit % n_parts);
            let row = choice / K;
            let x = inputs[row].get_or_insert_with(|| {
                let mut x = Vec::new();
                step.normed(norm, row, &mut x);
                prepared(&self.up[0], &x)
            });
            let (expert, _) = step.choice(row, choice % K);
            let columns = part * size..F.min((part + 1) * size);
            for first in (0..self.fan_out()).step_by(F) {
                let rows = first + columns.start..first + columns.end;
                // SAFETY: these hidden units belong to this unit of work.
                unsafe { multiply(&self.up[expert], rows, x, &step.hidden.output(choice, 1)) };
            }
            step.activate(choice, F, columns);
        });

        // A unit is some columns of all rows.
        let C = self.down[0].rows();
        let size = unit_rows(&self.down[0], worker.n_threads);
        let mut inputs: Vec<Activations> = Vec::new();
        worker.each(C.div_ceil(size), |unit| {
            if inputs.is_empty() {
                // SAFETY: this part only reads the hidden units.
                let hidden = (0..n * K).map(|choice| unsafe { step.hidden.read(choice, 0..F) });
                inputs.extend(hidden.map(|hidden| prepared(&self.down[0], hidden)));
            }
            let columns = unit * size..C.min((unit + 1) * size);
            for (choice, x) in inputs.iter().enumerate() {
                let row = choice / K;
                let (expert, weight) = step.choice(row, choice % K);
                // SAFETY: these columns belong to this unit.
                unsafe {
                    let out = step.out.output(choice, 1);
                    multiply(&self.down[expert], columns.clone(), x, &out);
                    let stream = step.stream.write(row, columns.clone());
                    math::add_scaled(stream, step.out.read(choice, columns.clone()), weight);
                }
            }
        });
    }

    /// Choose the experts of a row: those with the highest scores. Their scores, divided by their sum, are
    /// their weights.
    fn choose(&self, step: &Step<'_>, row: usize, norm: &Norm) {
        let mut x = Vec::new();
        step.normed(norm, row, &mut x);
        let mut scores = vec![0.0; self.router.rows()];
        let out = Output::new(&mut scores, self.router.rows());
        // SAFETY: the scores are this function's own.
        unsafe {
            multiply(
                &self.router,
                0..self.router.rows(),
                &prepared(&self.router, &x),
                &out,
            )
        };
        let sum = math::exp_shifted(&mut scores);
        for score in &mut scores {
            *score /= sum;
        }
        let biased = |&e: &usize| scores[e] + self.bias.map_or(0.0, |bias| bias[e]);
        let mut experts: Vec<usize> = (0..scores.len()).collect();
        experts.sort_by(|a, b| biased(b).total_cmp(&biased(a)));
        experts.truncate(self.n_active);
        let sum: f32 = experts.iter().map(|&e| scores[e]).sum();
        for (k, &e) in experts.iter().enumerate() {
            step.choose(row, k, e, scores[e] / sum);
        }
    }
}

fn prepared(matrix: &Matrix<'_>, x: &[f32]) -> Activations {
    let mut activations = Activations::new(matrix);
    activations.set(x);
    activations
}
