"""A user's own program undisturbed and under faults, and whether both end in the same bits: `resilient chaos`. Knows nothing of Keras."""

from __future__ import annotations

from resilient.chaos.proof import Outcome, Proof, Verdict

__all__ = ["Outcome", "Proof", "Verdict"]
