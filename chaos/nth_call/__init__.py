"""Fail the n-th call, n = 1, 2, … until nothing fails any more: every call of everything that is done to a run directory.

Once, and from there on persistently; with each error that such a call may give. Whatever is done then goes on or ends with one clear
error, the newest durable checkpoint is there, and nothing leaks. `python -m chaos.nth_call` makes the table.
"""
