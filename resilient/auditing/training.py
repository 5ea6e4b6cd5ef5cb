"""Everything that is looked at before a training, in one list."""

from __future__ import annotations

from typing import Any

from resilient.auditing.callbacks import callback_findings
from resilient.auditing.datasets import dataset_findings
from resilient.auditing.finding import Finding
from resilient.auditing.functions import training_findings
from resilient.data import DatasetInput, Input


def fit_findings(model: Any, data: Input, validation: Input | None, callbacks: Any) -> list[Finding]:
    """What of a training with these could not be resumed exactly; [] if all can.

    Args:
        model: compiled and built.
        data: the training data, opened.
        validation: the validation data where it has a position of its own.
        callbacks: the caller's.
    """
    found: list[Finding] = []
    for one in (data, validation):
        if isinstance(one, DatasetInput):
            found += dataset_findings(one.dataset, model)
        found += [] if one is None else [Finding(*doubt) for doubt in one.doubts()]
    listed = list(getattr(callbacks, "callbacks", callbacks) or [])
    specification = data.element_spec()
    if specification is not None:
        found += training_findings(model, specification, listed)
    return list(dict.fromkeys([*found, *callback_findings(listed)]))
