"""The kill storm through `resilient run`: the program, its supervisor, the guard between them, and several of them at once.

`python -m chaos.supervised` plays it; see `__main__`. Programs under it: `lean` (the standard library alone, starts in a tenth of a
second) and `training` (`chaos.program`, whose end must be that of an undisturbed run bit for bit).
"""
