"""Fine-tuning: from a model that continues text to one that answers.

Each method is a source, an objective (train/objective.py) and settings. The loop is train/'s.
"""
