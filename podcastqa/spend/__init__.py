"""Estimate, reserve, run, settle, remember: the road that each operation which may cost money takes."""
