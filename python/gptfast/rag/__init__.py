"""Search in your own documents: index, retrieval, and its evaluation.

- `readers` find files and turn each into pages of text; `chunks` divide a page into `passages`.
- `store` keeps everything in one SQLite file; `indexing` brings it up to date.
- `embeddings` and `lsa` make vectors; `search` ranks chunks for a question.
- `evaluate` measures retrievers by questions whose answers are known.
"""
