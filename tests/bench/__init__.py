"""Benchmarks: each figure beside what the same machine does bare, measured in the same run; never part of the suite."""
