"""`gptfast finetune audit`: what tuning a model gained, and what it lost."""
