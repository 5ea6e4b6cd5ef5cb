"""`resilient restore`: the one command that needs the user's model, and so TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from resilient import reading
from resilient.cli import scripts
from resilient.cli.exporting import step_or_word, tell_of
from resilient.cli.output import checked_output
from resilient.cli.progress import sign_of_life
from resilient.errors import ConfigurationError
from resilient.store.temporaries import replacing


def restore_run(directory: Path, reference: str, which: str, output: Path, *, json: bool) -> int:
    """Build the model, restore it, save it."""
    # Everything that can be known without TensorFlow is checked before it is imported, which takes seconds.
    remedy = "Use .keras for the whole model or .weights.h5 for its weights"
    ending = checked_output(output, directory, (".keras", ".weights.h5"), remedy)
    with sign_of_life(f"reading {directory}"):
        checkpoint = reading.choose(directory, step_or_word(which, "--which"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    model = _built_model(scripts.call(scripts.load_function(reference), reference), reference)
    from resilient.state import apply_to_model

    apply_to_model(model, checkpoint)
    with sign_of_life(f"writing {output}"), replacing(output, ending) as temporary:
        if ending == ".keras":
            model.save(temporary)
        else:
            model.save_weights(temporary)
    tell_of(output, checkpoint, json=json)
    return 0


def _built_model(model: Any, reference: str) -> Any:
    """The model, if it is one and has its variables."""
    # By name: this room does not import Keras, and whoever made a Keras model has.
    if not any(kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "keras" for kind in type(model).__mro__):
        raise ConfigurationError(f"{reference} returned a {type(model).__name__} and not a keras.Model. Let it return the model.")
    if not model.built:
        raise ConfigurationError(
            f"The model that {reference} returned has no variables yet. Give it a keras.Input, or call model.build(shape) in the function."
        )
    return model
