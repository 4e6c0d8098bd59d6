"""Benchmarks: each module prints its numbers and ends with acceptance rows."""
