"""The settings of each method of fine-tuning. They import no PyTorch, so that --help is quick."""
