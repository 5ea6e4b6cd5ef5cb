"""A batch script of Slurm."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence

from resilient.errors import EXIT_NEEDS_HUMAN, EXIT_PREEMPTED, ConfigurationError
from resilient.units.launch import Launch

# Seconds before the time limit at which Slurm sends SIGTERM, at least: what is killed at the end of its grace period has to be told of
# before the limit. `fit` stops by itself a minute before the end; this is for a limit that was changed meanwhile, and for other programs.
_WARNING, _AFTER_GRACE = 60, 30
_EARLY = 60  # seconds by which Slurm may send it before that
_DIRECTIVE = re.compile(r"-[^\n\r]*")

_SCRIPT = """\
#!/bin/bash
# Printed by `resilient unit slurm`.
#   submit it    sbatch {name}.sbatch
#   watch it     tail -f {name}-JOBID.log
#   stop it      scancel JOBID (the state is saved; submit it again to go on)
#SBATCH --job-name={name}
#SBATCH --output={name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@{warning}
{directives}
{directory}{environment}
# Slurm may signal this shell alone, so what comes is passed on. The supervisor runs beside it: bash obeys no trap while it waits for a
# command in the foreground.
asked='' supervisor=''
pass() {{ asked=$1; [ -z "$supervisor" ] || kill -s "$1" "$supervisor" 2>/dev/null; }}
for name in TERM HUP USR1 USR2; do trap "pass $name" "$name"; done
{command} &
supervisor=$!
[ -z "$asked" ] || kill -s "$asked" "$supervisor"
while kill -0 "$supervisor" 2>/dev/null; do wait "$supervisor"; done
wait "$supervisor"
code=$?
# It came before the supervisor could take it.
if [ -n "$asked" ] && [ "$code" -gt 128 ]; then code={preempted}; fi

# {preempted}: it was asked to stop, and the state is saved. Back into the queue, unless the job is leaving already: one that was cancelled
# must not rise from the dead, and one that Slurm requeues itself is in the queue. 78 (needs a human) and 93 (gave up) stay ended.
# A controller that fails over may take minutes to answer, so it is asked again, for as long as Slurm lets this shell live.
requeue() {{
  case $(squeue --noheader --jobs="$job" --format='%T %r') in
    RUNNING* | *TimeLimit) scontrol requeue "$job" ;;
    '') false ;;
  esac
}}
if [ "$code" -eq {preempted} ]; then
  job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
  job=${{job:-$SLURM_JOB_ID}}
  for pause in 1 4 10 30 60 60; do
    requeue && exit "$code"
    echo "resilient: job $job is not back in the queue yet: Slurm does not answer, or refuses. Trying again in $pause s." >&2
    sleep "$pause"
  done
  requeue || echo "resilient: job $job is not back in the queue. The state is saved. Submit it again to go on." >&2
fi
exit "$code"
"""


def batch_script(launch: Launch, *, time_limit: float | None = None, directives: Sequence[str] = ()) -> str:
    """The script for sbatch.

    Args:
        launch: its directory and command are paths that the nodes know.
        time_limit: seconds, None for the partition's own.
        directives: further options of sbatch, each as on its command line.

    Raises:
        ConfigurationError: a directive is no option, or the time limit leaves no time to train.
    """
    for directive in directives:
        if not _DIRECTIVE.fullmatch(directive):
            raise ConfigurationError(f"--sbatch {directive!r} is no option of sbatch. Write it like --sbatch=--gres=gpu:1.")
    warning = max(_WARNING, math.ceil(launch.grace + _AFTER_GRACE))
    if time_limit is not None and math.ceil(time_limit / 60) * 60 <= warning + _EARLY:
        raise ConfigurationError(
            f"--time of {time_limit:g} s leaves no time to train: Slurm asks the job to stop up to {warning + _EARLY} s before that, and "
            f"it would go back into the queue for ever. Give it at least {(warning + _EARLY) // 60 + 1}m, or a shorter --grace."
        )
    limit = [] if time_limit is None else [f"--time={_as_slurm_says(time_limit)}"]
    return _SCRIPT.format(
        name=launch.name,
        warning=warning,
        directives="".join(f"#SBATCH {directive}\n" for directive in (*limit, *directives)),
        directory=f"cd -- {shlex.quote(launch.directory)} || exit {EXIT_NEEDS_HUMAN}\n" if launch.directory is not None else "",
        environment="".join(f"export {name}={shlex.quote(value)}\n" for name, value in launch.environment),
        command=shlex.join(launch.words),
        preempted=EXIT_PREEMPTED,
    )


def _as_slurm_says(seconds: float) -> str:
    """Days-hours:minutes:seconds; Slurm counts whole minutes."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"
