"""lm-evaluation-harness put to an exact checkpoint and its base: what other people's benchmarks get out of them."""
