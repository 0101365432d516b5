"""Judge a model: loss on text, another model beside it, and answers to tasks."""
