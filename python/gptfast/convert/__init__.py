"""Other projects' checkpoints as our model folders. The command is `gptfast import`."""
