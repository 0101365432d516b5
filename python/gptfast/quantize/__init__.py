"""Make a smaller folder of a model folder, and measure what that costs."""
