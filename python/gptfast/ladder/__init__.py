"""The ladder: from bigram to GPT, one idea at a time, each measured on the same text."""
