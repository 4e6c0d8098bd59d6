"""Comparison of alignment methods on pairs of days: one run, the same trials, intervals that pair them."""
