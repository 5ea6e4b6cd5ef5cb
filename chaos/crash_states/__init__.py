"""Every state that a crash may leave of a run directory, and whether the run goes on from each as promised.

What the store asks the kernel to do is recorded (`recording`), every state is built that one of three models of persistence allows
(`persistence`), and the real restore is run on it (`lives`, `explore`). `python -m chaos.crash_states` makes the table.
"""
