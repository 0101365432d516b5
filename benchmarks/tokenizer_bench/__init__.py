"""The parts of `benchmarks/tokenizer.py`: inputs, libraries, the timed process, the tables."""
