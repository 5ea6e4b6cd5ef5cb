"""One thing that cannot be restored exactly."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a resumed run could not have exactly as the run that was never stopped.

    Attributes:
        what: the operation, variable or attribute, and where it stands, as in "RandomUniform in Dataset.map(augment) at train.py:12".
        why: what is in the way, as a clause.
        remedy: what to change in the program, as a request.
    """

    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.remedy}."
