"""What the training function contains that a checkpoint does not hold.

Random operations with a state inside of their kernel are a finding with and without a seed: a seed says where they begin, and nobody can
set them to where they were. `keras.random` and Keras' layers draw with stateless operations from variables of the model, and are clean.
So is everything with `run_eagerly=True`, where there is no kernel that lives on: operations then draw their seeds from TensorFlow's
generator, which is restored. JAX has no such operations, and PyTorch's draw from its global generator, which is restored.

Variables are found by what the graph writes: all of them have to be in the checkpoint. One that is only read is a constant here; if the
program changes it between batches, that cannot be seen. Python code that runs while the function is traced cannot be seen either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from resilient.auditing import graphs
from resilient.auditing.finding import Finding
from resilient.auditing.saved import saved_handles

_SHOWN = 3
_DEPTH = 6


def training_findings(model: Any, data: Any, callbacks: Iterable[Any] = ()) -> list[Finding]:
    """What the training function of a compiled model does that no checkpoint could undo; [] if nothing, or if it is not a graph.

    It is traced here, if it is not yet: build the model and its optimizer first.

    Args:
        model: the compiled model. Its `train_function` is made, and `fit` goes on to use it.
        data: what the function is trained with: a dataset, as Keras' data adapter hands it to `fit`, or its `element_spec`.
        callbacks: those of the training. Variables that are their attributes are saved with them.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return []
    graph = graphs.training_graph(model, getattr(data, "element_spec", data))
    if graph is None:
        return []
    saved = {id(handle) for handle in saved_handles(model, callbacks)}
    unsaved = [written for written in graphs.written_variables(graph) if id(written.handle) not in saved]
    found = [finding for op, _ in graphs.operations(graph) for finding in _operation_findings(op)]
    return list(dict.fromkeys([*found, *_variable_findings(model, unsaved)]))


def _operation_findings(op: Any) -> Iterator[Finding]:
    if graphs.is_random(op):
        yield Finding(
            _what(op),
            "its position lies inside of a TensorFlow kernel, where it can be neither read nor set",
            "draw with keras.random and a keras.random.SeedGenerator that is an attribute of the model or layer",
        )
    if graphs.changes_table(op):
        yield Finding(_what(op), "checkpoints do not hold lookup tables", "keep what it learns in a variable made with add_weight")


def _what(op: Any) -> str:
    return f"{op.type} in the training function{graphs.place(op)}"


def _variable_findings(model: Any, unsaved: list[graphs.Written]) -> Iterator[Finding]:
    """One finding for each owner of such variables, as an optimizer may have hundreds of them."""
    owners = _owners(model) if unsaved else {}
    groups: dict[str | None, list[graphs.Written]] = {}
    for written in unsaved:
        owner = owners.get(id(written.handle))
        groups.setdefault(owner or written.name, []).append(written)
    why = "training changes it, and checkpoints do not hold it, because Keras does not count it among the model's variables"
    for name, group in groups.items():
        random = any(written.random for written in group)
        names = sorted({written.name for written in group if written.name} - {name})
        inside = f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})" if names else ""
        kind = "the tf.random.Generator" if random else "the variable" if len(group) == 1 else "the variables of"
        yield Finding(f"{kind} {name or 'without a name'}{inside} in the training function", why, _remedy(random=random))


def _remedy(*, random: bool) -> str:
    if random:
        return "draw with keras.random and a keras.random.SeedGenerator that is an attribute of the model or layer"
    return "make it with add_weight(..., trainable=False), or keep its owner (metric, layer, optimizer) as an attribute of the model itself"


def _owners(model: Any) -> dict[int, str]:
    """Where below the model each variable hangs: id of its handle -> path as in "model.generators['a'].state"."""
    found: dict[int, str] = {}
    for path, value in _below(model):
        variables = _variables_in(value)
        found.update({id(handle): path for variable in variables for handle in graphs.handles(variable) if id(handle) not in found})
    return found


def _below(model: Any) -> Iterator[tuple[str, Any]]:
    """Attributes and items below the model, nearest first."""
    import keras
    import tensorflow as tf

    waiting, seen = [("model", model, 0)], set()
    for path, value, depth in waiting:  # grows while it is read
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield path, value
        if depth == _DEPTH:
            continue
        if isinstance(value, dict):
            waiting += [(f"{path}[{key!r}]", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        elif isinstance(value, (keras.layers.Layer, tf.Module)) or _is_plain_object(value):
            waiting += [(f"{path}.{name}", item, depth + 1) for name, item in vars(value).items() if not name.startswith("_")]


def _is_plain_object(value: Any) -> bool:
    """An object of the program's own, that may hold variables."""
    root = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and not callable(value) and root not in ("keras", "tensorflow", "builtins", "numpy")


def _variables_in(value: Any) -> list[Any]:
    import keras
    import tensorflow as tf

    if isinstance(value, (keras.Variable, tf.Variable)):
        return [value]
    if isinstance(value, (tf.random.Generator, keras.random.SeedGenerator)):
        return [value.state]
    if isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric, keras.layers.Layer)):
        return list(value.variables)
    return []
