"""Text in which the branches of the split pattern meet far more often than in random text."""

from __future__ import annotations

from hypothesis import strategies as st

ATOMS = [
    *("'s", "'ll", "'ve", "'re", "'", "'S", "don't", "I'm"),
    *(" ", "  ", "   ", "\n", "\r\n", "\t", "\v", "\x1c", "\x85", "\xa0", "\u2028", "\u3000"),
    *("a", "ab", "the", " the", "É", "ß", "İ", "字", "日本語", "한국어", "عربى", "e\u0301", "नि"),
    *("1", "2024", "½", "Ⅷ", "٣", "²"),
    *(".", "!?", "_", "<|endoftext|>", "🦀", "👩‍🔬", "🇩🇪"),
    *("\0", "\ufeff", "\u200b", "\uffff", "\U0010fffe"),
]

# Without surrogates, which are no characters, and without code points that Unicode has not
# assigned: libraries that follow another version of Unicode may see a letter there already.
TEXTS = st.lists(
    st.sampled_from(ATOMS) | st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=8),
    max_size=12,
).map("".join)
