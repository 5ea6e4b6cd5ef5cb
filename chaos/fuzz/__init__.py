"""Fuzzing of everything that is parsed: only the documented error, within bounds of time and memory, and nothing outside the directory.

python -m chaos.fuzz manifest --seconds 30
"""
