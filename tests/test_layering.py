"""The architecture as rules: `docs/design.md` draws the picture, this file keeps it true."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "resilient"

# A room is a module or a package directly under resilient/. A new one gets its line here.
LAYERS: dict[str, int] = {
    # L0 pure: values and decisions
    **dict.fromkeys(("errors", "manifest", "keep", "durations", "policy", "overhead", "failures", "settings", "restarts", "units"), 0),
    **dict.fromkeys(("signs", "accounts", "amounts", "packed", "status"), 0),
    # L1 effects: each knows one part of the world, and none of the others
    **dict.fromkeys(("state", "data", "store", "preemption", "journal", "heartbeat", "memory"), 1),
    # L2 loop: what runs beside or inside the training
    **dict.fromkeys(
        (
            "callback",
            "model_checkpoint",
            "monitor",
            "priority",
            "saver",
            "writer",
            "opening",
            "inputs",
            "program",
            "run",
            "auditing",
            "executions",
            "supervisor",
        ),
        2,
    ),
    # L3 entry: what a user or an operator calls
    **dict.fromkeys(("fitting", "examining", "reading", "comparing", "observing", "report", "doctoring", "chaos", "cli"), 3),
    **dict.fromkeys(("__init__", "__main__"), 4),
}
# The private names of Keras: no layer, but open to those who may know Keras at all.
PRIVATE_KERAS = "keras_private"

KNOWS_KERAS = {
    "state",
    "data",
    "callback",
    "model_checkpoint",
    "inputs",
    "program",
    "run",
    "executions",
    "fitting",
    "examining",
    "auditing",
    PRIVATE_KERAS,
}
FRAMEWORKS = {"keras", "tensorflow", "jax", "torch"}
PURE_LIBRARIES = {"xxhash"}
# `settings` turns what the caller wrote into paths and signal numbers; it opens and installs nothing.
NAMES_OF_THE_WORLD = {"settings": {"os", "pathlib", "signal"}}
WORLD = {"os", "time", "io", "pathlib", "shutil", "tempfile", "socket", "subprocess", "threading", "signal", "random", "asyncio"}
CODE_EXECUTING_FORMATS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
DATED_NAMES = {"manager", "handler", "helper", "helpers", "util", "utils", "engine", "context"}

LONGEST_FUNCTION = 60
LONGEST_MODULE = 400


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def sources() -> list[Path]:
    return [path for top in ("resilient", "chaos", "examples", "benchmarks", "tests") for path in sorted((ROOT / top).rglob("*.py"))]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that `node` imports, at any depth, with its line; `from resilient import x` counts as `resilient.x`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            names = [f"{child.module}.{alias.name}" for alias in child.names] if child.module == "resilient" else [child.module]
            yield from ((name, child.lineno) for name in names)


def rooms_imported(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in imports(tree(path)):
        parts = name.split(".")
        if parts[0] == "resilient" and len(parts) > 1:
            yield parts[1], line


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_room_has_a_layer() -> None:
    """A module that nobody has placed in the picture fails here first."""
    assert {room(path) for path in modules()} - LAYERS.keys() - {PRIVATE_KERAS} == set()


def test_imports_point_down() -> None:
    """A room imports lower layers, and its own layer only in L0, L2 and L3: the rooms of L1 do not know each other."""
    wrong = []
    for path in modules():
        here = room(path)
        for there, line in rooms_imported(path):
            if there in (here, PRIVATE_KERAS) or here == PRIVATE_KERAS or there not in LAYERS:
                continue
            if LAYERS[there] > LAYERS[here] or (LAYERS[there] == LAYERS[here] == 1):
                wrong.append(f"{at(path, line)}: {here} imports {there}")
    assert wrong == []


def test_pure_layer_knows_only_the_standard_library_and_no_world() -> None:
    """Layer 0 has no I/O, no clock, no thread and no chance in it, so every decision can be tested as a value."""
    wrong = []
    for path in (path for path in modules() if LAYERS.get(room(path)) == 0):
        for name, line in imports(tree(path)):
            top = name.split(".")[0]
            foreign = top not in sys.stdlib_module_names and top not in PURE_LIBRARIES and top != "resilient"
            if foreign or top in WORLD - NAMES_OF_THE_WORLD.get(room(path), set()):
                wrong.append(f"{at(path, line)}: imports {name}")
        wrong += [f"{at(path, call.lineno)}: {name}()" for call, name in calls(tree(path)) if name in ("open", "print", "now", "today")]
    assert wrong == []


def test_only_the_rooms_that_need_keras_import_it() -> None:
    """Keras and its backends stay behind a few doors; everything else runs, and is tested, without them."""
    wrong = [
        f"{at(path, line)}: imports {name}"
        for path in modules()
        if room(path) not in KNOWS_KERAS
        for name, line in imports(tree(path))
        if name.split(".")[0] in FRAMEWORKS or name == f"resilient.{PRIVATE_KERAS}"
    ]
    assert wrong == []


def test_private_keras_names_live_in_one_file() -> None:
    """`keras.src` and `tensorflow.python` are written in keras_private.py alone, where a release that moves a name is met by name."""
    wrong = [
        f"{at(path, line)}: imports {name}"
        for path in modules()
        if room(path) != PRIVATE_KERAS
        for name, line in imports(tree(path))
        if name.startswith(("keras.src", "tensorflow.python"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "statement", ["import resilient", "import resilient.cli", "from resilient import Keep, Preempted, checkpoints, verify"]
)
def test_importing_the_package_does_not_import_a_framework(statement: str) -> None:
    """The command line and the readers of a run start in a fraction of a second, so none of them may load TensorFlow."""
    code = f"import sys\n{statement}\nprint(*sorted({FRAMEWORKS!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_only_the_store_knows_where_checkpoints_lie() -> None:
    """Paths under checkpoints/ are built in store/ alone, so that one predicate decides what a valid checkpoint is."""
    wrong = [at(path, line) for path in modules() if room(path) != "store" for line in path_uses(tree(path), "checkpoints")]
    assert wrong == []


def path_uses(node: ast.AST, directory: str) -> Iterator[int]:
    """Lines where `directory` is a part of a path: `x / "directory"`, `"directory/..."`, or an argument of Path or join."""
    for child in ast.walk(node):
        if isinstance(child, ast.BinOp) and isinstance(child.op, ast.Div):
            parts: list[ast.expr] = [child.left, child.right]
        elif isinstance(child, ast.Call) and name_of(child.func) in ("Path", "PurePath", "join", "joinpath", "open"):
            parts = list(child.args)
        else:
            continue
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and directory in part.value.split("/"):
                yield part.lineno


def test_nothing_is_read_or_written_in_a_format_that_runs_code() -> None:
    """No pickle and none of its kin: a checkpoint from a stranger is data, never a program."""
    wrong = [
        f"{at(path, line)}: imports {name}"
        for path in modules()
        for name, line in imports(tree(path))
        if name.split(".")[0] in CODE_EXECUTING_FORMATS
    ]
    assert wrong == []


def test_modules_and_classes_are_named_after_what_they_are() -> None:
    """Names that fit everything say nothing."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        for name in [path.stem, *(node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))]
        if any(name.lower().strip("_").endswith(dated) for dated in DATED_NAMES)
    ]
    assert wrong == []


def test_functions_and_modules_stay_short() -> None:
    """No function over 60 lines, no module over 400: what does not fit has a second job. A file of tests is a list, and may be longer."""
    wrong = []
    for path in sources():
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > LONGEST_MODULE and not path.is_relative_to(ROOT / "tests"):
            wrong.append(f"{path.relative_to(ROOT)}: {length} lines")
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
                if lines > LONGEST_FUNCTION:
                    wrong.append(f"{at(path, node.lineno)}: {node.name} has {lines} lines")
    assert wrong == []


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the docstring: a public function may explain itself at length."""
    return len((ast.get_docstring(node) or "").splitlines())


def test_every_test_says_in_a_sentence_what_it_proves() -> None:
    """A test's docstring is what one reads when it fails."""
    wrong = [
        f"{at(path, node.lineno)}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert wrong == []


def test_the_rules_notice_what_they_forbid() -> None:
    """Negative control: the readers of the source that the rules above rest on do see an offence."""
    source = 'import keras.src.x\nfrom resilient import store\nroot / "checkpoints"\nopen("checkpoints/step-1")\nthis = "checkpoints"\n'
    offence = ast.parse(source)
    assert [name for name, _ in imports(offence)] == ["keras.src.x", "resilient.store"]
    assert list(path_uses(offence, "checkpoints")) == [3, 4]
    assert [name for _, name in calls(offence)] == ["open"]


def calls(node: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for child in ast.walk(node):
        if isinstance(child, ast.Call):
            yield child, name_of(child.func)


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
