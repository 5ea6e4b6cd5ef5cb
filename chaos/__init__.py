"""Faults as a library: killing real training processes at real moments, damaging files at rest, and judging what is left."""
