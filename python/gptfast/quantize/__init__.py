"""Make a smaller and faster folder of a model folder, and measure what that costs."""
