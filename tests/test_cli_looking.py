"""ls, verify and prune as an operator meets them, in real processes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import MODEL, a_run, cli, flip, manifest, place, snapshot, tensors, the_error

from resilient.cli import tables
from resilient.manifest import step_name
from resilient.reading import monitored
from resilient.store import RunLock, Store

WIDTH = 80


def lines(done):
    listed = done.stdout.splitlines()
    assert max(map(len, listed)) <= WIDTH
    return listed


def test_ls_shows_every_checkpoint_the_monitored_metric_first_and_marks_the_best(tmp_path):
    """One row a checkpoint, oldest first, the final state last; the star stands at the best value of the monitored metric."""
    run = a_run(tmp_path, final=True)
    header, *rows = lines(cli("ls", run))
    assert header.split() == ["step", "epoch", "batch", "val_loss", "loss", "accuracy", "size", "age", "best"]
    assert [row.split()[:3] for row in rows] == [["0", "0", "0"], ["10", "1", "0"], ["20", "2", "0"], ["25", "2", "5"], ["final", "3", "0"]]
    assert [row.split()[0] for row in rows if row.rstrip().endswith("*")] == ["10"]
    assert rows[1].split()[3:6] == ["0.5", "0.09091", "0.25"]
    assert all("5 min" in row for row in rows)


def test_ls_json_has_every_field_of_checkpoint_info(tmp_path):
    """A program reads paths as text, times as ISO 8601 and NaN as text, from strict JSON."""
    run = a_run(tmp_path, final=True)
    Store(run).commit(manifest(26, val_loss=float("nan")), tensors(26))
    document = json.loads(cli("ls", run, "--json").stdout, parse_constant=pytest.fail)
    steps = document["checkpoints"]
    assert [info["step"] for info in steps] == [0, 10, 20, 25, 26]
    assert steps[1].keys() == {"step", "epoch", "batch", "metrics", "best", "path", "nbytes", "created"}
    assert steps[1]["path"] == str(place(run, 10)) and steps[1]["best"] is True and steps[2]["best"] is False
    assert dt.datetime.fromisoformat(steps[1]["created"]).tzinfo is not None
    assert steps[4]["metrics"]["val_loss"] == "nan"
    assert document["final"]["step"] == 30 and document["damaged"] == []


@pytest.mark.parametrize("damage", ["manifest", "truncated", "missing"])
def test_ls_shows_damaged_checkpoints_as_damaged(tmp_path, damage):
    """What can be seen without reading the data is seen: a broken manifest, a short file, a missing one."""
    run = a_run(tmp_path, final=True)
    for step in (10, "final"):
        target = place(run, step) / ("manifest.json" if damage == "manifest" else MODEL)
        if damage == "manifest":
            flip(target, 40)
        elif damage == "truncated":
            target.write_bytes(target.read_bytes()[:-1])
        else:
            target.unlink()
    done = cli("ls", run)
    rows = [row.split() for row in lines(done)[1:]]
    assert [(row[0], row[-1] == "damaged") for row in rows] == [("0", False), ("10", True), ("20", False), ("25", False), ("final", True)]
    assert done.stderr.count("Damaged: ") == 2 and str(place(run, 10)) in done.stderr
    document = json.loads(cli("ls", run, "--json").stdout)
    assert [entry["path"] for entry in document["damaged"]] == [str(place(run, 10)), str(place(run, "final"))]
    assert document["final"] is None


def test_ls_fits_80_columns_with_long_names_and_large_numbers(tmp_path):
    """Names of metrics are cut before a row breaks, whatever the run is called and however long it trained."""
    store = Store(tmp_path)
    store.prepare()
    made = manifest(123_456_789_012, epoch=123_456, batch=1_234_567, val_loss=-1.23456789e-300)
    metrics = {**made.metrics, "val_a_very_long_name_of_a_metric": -1e300, "[red]markup[/red]": 3.0}
    store.commit(type(made)(**{**vars(made), "metrics": metrics}), tensors(1))
    header, row = lines(cli("ls", tmp_path))
    assert row.split()[:3] == ["123456789012", "123456", "1234567"]
    assert "val_loss" in header and "-1.235e-300" in row


def test_ls_of_a_run_that_has_saved_nothing_says_so(tmp_path):
    """A run that has just begun is no error."""
    Store(tmp_path).prepare()
    assert cli("ls", tmp_path).stdout == f"No checkpoints in {tmp_path} yet.\n"
    document = json.loads(cli("ls", tmp_path, "--json").stdout)
    assert document == {"checkpoints": [], "final": None, "damaged": [], "input": None, "newer": []}


def test_ls_works_beside_a_live_run_and_changes_nothing(tmp_path):
    """Looking takes no lock, moves nothing and writes nothing."""
    run = a_run(tmp_path)
    flip(place(run, 25) / "manifest.json", 40)
    with RunLock(run):
        before = snapshot(run)
        cli("ls", run)
        cli("verify", run, code=1)
        assert snapshot(run) == before


def test_verify_of_a_sound_run_counts_and_exits_with_0(tmp_path):
    """Everything is as it was saved."""
    run = a_run(tmp_path, final=True)
    assert cli("verify", run).stdout == "5 checkpoints verified, 0 problems.\n"
    assert json.loads(cli("verify", run, "--json").stdout)["problems"] == []


@pytest.mark.parametrize("step", [10, "final"])
def test_verify_finds_one_flipped_bit_and_exits_with_1(tmp_path, step):
    """A change that leaves every size as it was is found, and the line names the file."""
    run = a_run(tmp_path, final=True)
    flip(place(run, step) / MODEL)
    found, count = cli("verify", run, code=1).stdout.splitlines()
    assert found == f"{place(run, step)}: {MODEL} does not match its checksum"
    assert count == "5 checkpoints verified, 1 problem."
    (problem,) = json.loads(cli("verify", run, "--json", code=1).stdout)["problems"]
    assert problem["path"] == str(place(run, step))


def test_prune_removes_what_no_rule_keeps_and_a_dry_run_nothing(tmp_path):
    """The dry run lists exactly what the real one then removes."""
    run = a_run(tmp_path, final=True)
    options = ("--keep-last", 1, "--keep-best", 1)
    before = snapshot(run)
    dry = cli("prune", run, *options, "--dry-run")
    assert snapshot(run) == before
    assert (
        [row.split()[0] for row in lines(dry)[1:-1]] == ["0", "20"] and "2 checkpoints" in dry.stdout and "would be removed" in dry.stdout
    )
    removed = json.loads(cli("prune", run, *options, "--json").stdout)
    assert removed["dry_run"] is False and [info["step"] for info in removed["removed"]] == [0, 20]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [step_name(10), step_name(25)]
    assert cli("verify", run).stdout == "3 checkpoints verified, 0 problems.\n"
    assert cli("prune", run, *options).stdout == "0 checkpoints (0 B) removed.\n"


def test_prune_makes_room_of_what_a_stopped_run_has_left(tmp_path):
    """A process that had to end left the deleting to others; a dry run touches nothing."""
    run = a_run(tmp_path)
    trash = run / "checkpoints" / f".trash-{'0' * 32}"
    shutil.copytree(place(run, 10), trash)
    cli("prune", run, "--dry-run")
    assert trash.exists()
    cli("prune", run)
    assert not trash.exists()


def test_prune_every_takes_epochs_and_durations(tmp_path):
    """`--every 2` keeps the end of every second epoch, `--every 1h` one an hour."""
    run = a_run(tmp_path)
    options = ("--keep-last", 1, "--keep-best", 0, "--dry-run", "--json", "--every")
    removed = {every: json.loads(cli("prune", run, *options, every).stdout)["removed"] for every in ("2", "1h")}
    assert [info["step"] for info in removed["2"]] == [0, 10]
    assert [info["step"] for info in removed["1h"]] == [10, 20]


def test_prune_of_a_live_run_is_refused_and_a_dry_run_is_not(tmp_path):
    """The process that trains owns the directory; the sentence names it."""
    run = a_run(tmp_path)
    with RunLock(run):
        before = snapshot(run)
        error = the_error(cli("prune", run, "--keep-last", 1, code=1))
        assert "in use" in error and "pid" in error
        cli("prune", run, "--keep-last", 1, "--dry-run")
        assert snapshot(run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep-last", 0), "--keep-last 0 is not accepted"),
        (("--keep-best", -1), "--keep-best -1 is not accepted"),
        (("--every", "often"), "--every='often'"),
        (("--every", "0"), "--every 0 is not accepted"),
        (("--every=-5s",), "more than 0"),
        (("--keep-last", "many"), "Invalid value for '--keep-last'"),
    ],
)
def test_prune_refuses_rules_that_make_no_sense(tmp_path, arguments, words):
    """One sentence names the value, and nothing is removed."""
    run = a_run(tmp_path)
    assert words in the_error(cli("prune", run, *arguments, code=78))
    assert len(list((run / "checkpoints").iterdir())) == 4


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["prune"], ["export", "-o", "x.safetensors"], ["diff", "1", "2"]])
@pytest.mark.parametrize("kind", ["missing", "file", "foreign", "inner"])
def test_a_directory_that_is_no_run_is_one_sentence(tmp_path, command, kind):
    """Missing, a file, another program's directory, or the inside of a run: no command takes it for an empty run, or writes into it."""
    run = a_run(tmp_path / "run")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    target = run / "checkpoints" if kind == "inner" else tmp_path / kind
    before = snapshot(tmp_path)
    error = the_error(cli(command[0], target, *command[1:], code=78, cwd=tmp_path))
    assert str(target) in error
    assert kind != "inner" or f"Name {run}" in error
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls"], "DIR"),
        (["ls", ".", "--jsno"], "--jsno"),
        (["lss", "."], "lss"),
        (["diff", ".", "1"], "STEP_B"),
        (["export", "."], "output"),
    ],
)
def test_wrong_usage_exits_with_2_in_one_line(tmp_path, arguments, words):
    """The line names what is wrong and where help is."""
    done = cli(*arguments, code=2, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert words in line and "--help`." in line and done.stdout == ""


def test_no_command_shows_the_help_and_exits_with_2():
    """`resilient` alone is a question."""
    done = cli(code=2)
    assert all(command in done.stdout for command in ("ls", "verify", "restore", "export", "prune", "diff"))


@pytest.mark.parametrize("command", ["ls", "verify", "restore", "export", "prune", "diff"])
def test_the_help_of_each_command_has_an_example(command):
    """What to type is shown and not only described."""
    assert f"Example: resilient {command} runs/digits" in cli(command, "--help").stdout


@pytest.mark.parametrize("arguments", [["--debug", "ls"], ["ls", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(tmp_path, arguments):
    """Without it there is none (all other tests); with it the sentence is still the last line."""
    done = cli(*arguments, tmp_path / "missing", code=78)
    assert "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("Error: There is no directory")


def test_a_manifest_of_the_future_is_shown_and_not_called_damaged(tmp_path, monkeypatch):
    """Another version's checkpoint is listed as newer; using the run asks for an upgrade instead of falling back to old weights."""
    run = a_run(tmp_path)
    monkeypatch.setattr("resilient.manifest.FORMAT_VERSION", 2)
    future = manifest(40).encode()
    monkeypatch.undo()
    place(run, 40).mkdir()
    (place(run, 40) / "manifest.json").write_bytes(future)
    done = cli("ls", run)
    assert lines(done)[-1].endswith("newer format")
    document = json.loads(cli("ls", run, "--json").stdout)
    assert document["damaged"] == [] and [entry["path"] for entry in document["newer"]] == [str(place(run, 40))]
    assert "Upgrade resilient" in the_error(cli("export", run, "-o", tmp_path.parent / "x.safetensors", code=78))


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_reader_that_leaves_early_is_no_error(tmp_path, option):
    """`resilient ls | head -1` ends without a word on stderr."""
    shell = f"{sys.executable} -m resilient ls {a_run(tmp_path)} {option} | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(("target", "why"), [(">/dev/full", "No space left"), (">&-", "it is closed")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_an_error(tmp_path, target, why, unbuffered):
    """A report cut short by a full disk does not count as a success."""
    shell = f"{sys.executable} -m resilient ls {a_run(tmp_path)} {target}"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", shell], stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=environment)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"Error: Standard output cannot be written: {why}")


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["prune", "--dry-run"], ["diff", "10", "20"], ["export", "-o", "../x.weights.h5"]])
def test_commands_without_a_model_never_import_a_framework(tmp_path, command):
    """TensorFlow takes seconds to import, and a machine that only looks at runs need not have it."""
    run = a_run(tmp_path / "run")
    code = (
        "import sys; from resilient.cli import main; code = main(sys.argv[1:]); "
        "assert code in (0, 1), code; assert not {'tensorflow', 'keras', 'jax', 'torch'} & sys.modules.keys()"
    )
    arguments = [command[0], run, *command[1:]]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, cwd=run, check=False)
    assert done.returncode == 0, done.stderr


def test_sizes_and_ages_are_short():
    """Three digits and one unit; a clock that is behind does not give a negative age."""
    assert [tables.size(n) for n in (0, 999, 1000, 9996, 123_456_789, 10**15)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "10.0 kB",
        "123 MB",
        "1.00 PB",
    ]
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    ages = [tables.age(now - dt.timedelta(seconds=s), now) for s in (-5, 0, 59, 60, 3599, 3600, 86399, 86400, 10**8)]
    assert ages == ["0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "1157 d"]


def test_the_reader_of_a_run_is_a_fast_command(tmp_path: Path):
    """`ls` spends little processor time (not wall-clock time, which is the machine's): it must stay usable in a loop."""
    run = a_run(tmp_path)
    code = (
        "import resource, sys; from resilient.cli import main; main(['ls', sys.argv[1]]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout.splitlines()[-1]) < 1.5  # importing TensorFlow alone takes more


def test_flags_have_no_type_in_the_help():
    """`--json` takes no value; only the help's own option is typer's."""
    assert "<bool>" not in "".join(line for line in cli("ls", "--help").stdout.splitlines() if "--help" not in line)


def test_the_monitored_metric_is_what_the_run_judged_by_and_else_what_it_was_told_to():
    """One answer for the list and for the report; of a run that was asked for what nobody logs, the one that it used instead."""
    told = manifest(10, val_loss=0.5)
    assert monitored([told]) == "val_loss"
    assert monitored([dataclasses.replace(told, state={"monitor": ["min", 0.5, "loss"], **told.state})]) == "loss"
    assert monitored([dataclasses.replace(told, state={}, score=0.25)]) == "accuracy"
    assert monitored([dataclasses.replace(told, state={}, score=None, metrics={})]) is None
