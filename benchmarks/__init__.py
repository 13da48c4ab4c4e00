"""Side-by-side timings: every figure is a ratio of medians taken in turn in one process."""
