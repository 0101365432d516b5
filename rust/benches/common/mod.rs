//! Text for the benches, made by a fixed pseudo-random generator.

/// Return about `n_bytes` of text that looks like English prose to a tokenizer: words of two to four
/// syllables, drawn with frequencies that fall like 1/rank (Zipf's law), in sentences and paragraphs.
pub fn prose(n_bytes: usize) -> String {
    const SYLLABLES: [&str; 20] = [
        "the", "an", "in", "er", "re", "on", "at", "en", "ti", "es", "or", "st", "al", "ing", "ou",
        "com", "per", "li", "so", "ta",
    ];
    const N_WORDS: f64 = 20_000.0;
    let mut random = SplitMix64(0);
    let mut text = String::with_capacity(n_bytes + 64);
    while text.len() < n_bytes {
        // The inverse of the cumulative frequencies of Zipf's law, approximately.
        let rank = N_WORDS.powf(random.fraction()) as u64;
        let mut word = SplitMix64(rank);
        for _ in 0..2 + rank.min(10_000) / 5_000 {
            text.push_str(SYLLABLES[word.below(20)]);
        }
        text.push_str(match random.below(40) {
            0 => ".\n\n",
            1..=2 => ". ",
            3..=5 => ", ",
            6 => "'s ",
            7 => " 1984 ",
            _ => " ",
        });
    }
    text
}

/// Steele, Lea and Flood's generator.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to n - 1.
    fn below(&mut self, n: u64) -> usize {
        (self.next() % n) as usize
    }

    /// A number from 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.next() as f64 / u64::MAX as f64
    }
}
