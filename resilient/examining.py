"""`resilient.audit`: what of a training could not be resumed exactly, without training."""

from __future__ import annotations

import inspect
from typing import Any

from resilient import keras_private
from resilient.auditing import Finding, fit_findings
from resilient.data import EpochPlan
from resilient.data.randomness import capture, restore
from resilient.fitting import fit
from resilient.inputs import Data, check_model, inputs_of


def audit(  # noqa: D417  the arguments of Model.fit, described in one entry
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    sample_weight: Any = None,
    class_weight: Any = None,
    shuffle: Any = True,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    validation_batch_size: int | None = None,
    validation_steps: int | None = None,
    callbacks: Any = None,
    **_fit: Any,
) -> list[Finding]:
    """What of `resilient.fit` with the same arguments could not be resumed exactly.

    The model is built, and its training function traced, as `fit` would do; no batch is trained. Of a generator nothing is taken: then
    the training function is looked at only once it is traced.

    Args:
        model: a compiled Keras model.
        x, y, sample_weight, class_weight, shuffle, batch_size, steps_per_epoch, validation_split, validation_data, validation_batch_size,
            validation_steps, callbacks: as in `resilient.fit`.
        **_fit: whatever else `resilient.fit` takes; it makes no difference here.

    Returns:
        A list of `Finding` (`what`, `why`, `remedy`; `str()` gives the sentence), [] if everything can be resumed exactly.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    unknown = sorted(_fit.keys() - inspect.signature(fit).parameters.keys())
    if unknown:
        raise TypeError(f"audit() got an unexpected keyword argument {unknown[0]!r}")
    check_model(model)
    given = Data(
        x, y, sample_weight, class_weight, shuffle, batch_size, steps_per_epoch,
        validation_split, validation_data, validation_batch_size, validation_steps,
    )  # fmt: skip
    inputs = inputs_of(model, given)
    generators = capture()
    try:
        for data in (inputs.training, inputs.validation):
            if data is not None and not data.is_used_up:
                data.learn()
        data = inputs.training
        data.open(EpochPlan(data.length, steps_per_epoch, int(model.steps_per_execution), 0), 0)
        if not data.is_used_up:
            with keras_private.strategy_scope(model):
                keras_private.symbolic_build(model, data.sample(), data.element_spec())
        return fit_findings(model, data, inputs.validation, callbacks)
    finally:
        restore(generators)
