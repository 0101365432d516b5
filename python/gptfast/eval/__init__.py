"""Judge a model: loss on text, another model beside it, answers to tasks, and repetition."""
