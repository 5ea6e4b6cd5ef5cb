"""Measurements: what the library costs, against what a program would use without it."""
