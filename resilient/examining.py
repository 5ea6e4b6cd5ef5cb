"""`resilient.audit`: what of a training could not be resumed exactly, without training."""

from __future__ import annotations

import dataclasses
from typing import Any

from resilient import keras_private
from resilient.auditing import Finding, fit_findings
from resilient.data import EpochPlan
from resilient.fitting import bound, fit
from resilient.inputs import Data, check_model, inputs_of
from resilient.state import rng


def audit(model: Any, *arguments: Any, **named: Any) -> list[Finding]:
    """What of `resilient.fit` with the same arguments could not be resumed exactly.

    The model is built, and its training function traced, as `fit` would do; no batch is trained. Of a generator nothing is taken: then
    the training function is looked at only once it is traced.

    Args:
        model: a compiled Keras model.
        *arguments: what `resilient.fit` takes after the model, in its order: x, y and so on.
        **named: the same by name. `directory` may be left out; it makes no difference here, as whatever is not data or callbacks.

    Returns:
        A list of `Finding` (`what`, `why`, `remedy`; `str()` gives the sentence), [] if everything can be resumed exactly.

    Raises:
        ConfigurationError: an argument is wrong, or `fit` has none of that name.
    """
    call = bound(fit, (model, *arguments), {"directory": "", **named})
    call.apply_defaults()
    given = Data(**{field.name: call.arguments[field.name] for field in dataclasses.fields(Data)})
    check_model(model)
    inputs = inputs_of(model, given)
    generators = rng.snapshot()
    try:
        for data in (inputs.training, inputs.validation):
            if data is not None and not data.is_used_up:
                data.learn()
        data = inputs.training
        data.open(EpochPlan(data.length, given.steps_per_epoch, int(model.steps_per_execution), 0), 0)
        if not data.is_used_up:
            with keras_private.strategy_scope(model):
                keras_private.symbolic_build(model, data.sample(), data.element_spec())
        return fit_findings(model, data, inputs.validation, call.arguments["callbacks"])
    finally:
        rng.restore(generators)
