"""`resilient unit kubernetes` against the published schemas of Kubernetes and JobSet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervised import ROOT

from resilient.units.yaml_text import document

yaml = pytest.importorskip("yaml")

# The oldest one in which the failure policy of pods is stable, and those after it.
OLDEST = (1, 31)
EVERYTHING = ["--limit=nvidia.com/gpu=1", "--limit=memory=16Gi", "--env=A=$(B) yes", "--workdir=/srv/on", "--grace=2m", "--storage=1.5Ti"]
SAMPLES = [[], EVERYTHING, ["--claim=data"], ["--jobset"], ["--jobset", *EVERYTHING]]


def printed(*arguments: str, command: tuple[str, ...] = ("python", "train.py")) -> list[dict[str, Any]]:
    """The documents that it prints, as a parser of YAML reads them."""
    words = [sys.executable, "-m", "resilient", "unit", "kubernetes", "--image", "registry.example/me/digits:1", *arguments, "--", *command]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def job_spec(document: dict[str, Any]) -> dict[str, Any]:
    """That of a Job, or of the Job in a JobSet."""
    spec: dict[str, Any] = document["spec"]
    return spec["replicatedJobs"][0]["template"]["spec"] if document["kind"] == "JobSet" else spec


def container(document: dict[str, Any]) -> dict[str, Any]:
    only: dict[str, Any]
    (only,) = job_spec(document)["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("arguments", SAMPLES, ids=" ".join)
def test_kubernetes_takes_it(arguments):
    """By the strict schemas of the oldest version with a stable failure policy of pods and of the newest: all fields known, and right."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="the published schemas of Kubernetes are a package of the extra `dev`")
    versions = [version for version in kubernetes.utils.all_versions() if tuple(map(int, version.split(".")[:2])) >= OLDEST]
    assert versions
    for found in printed(*arguments):
        inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}, "spec": job_spec(found)}
        for version in (versions[0], versions[-1]):
            kubernetes.validate(inner if found["kind"] == "JobSet" else found, version, strict=True)


@pytest.mark.parametrize("arguments", [sample for sample in SAMPLES if "--jobset" in sample], ids=" ".join)
def test_jobset_takes_it(arguments):
    """By the published model of its API: what is read back is what was written, so that every field is a known one."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="the published model of JobSet is a package of the extra `dev`")
    jobset = printed(*arguments)[-1]
    assert models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset
    policy = jobset["spec"]["failurePolicy"]
    assert policy["restartStrategy"] in ("Recreate", "BlockingRecreate", "InPlaceRestart")
    assert {rule["action"] for rule in policy["rules"]} <= {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
    assert all(re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]) for rule in policy["rules"])


def action(spec: dict[str, Any], code: int, conditions: tuple[str, ...] = ()) -> str:
    """What the failure policy says of a pod that ended so: the first rule that matches, as Kubernetes evaluates them."""
    for rule in spec["podFailurePolicy"]["rules"]:
        by_code, by_condition = rule.get("onExitCodes"), rule.get("onPodConditions")
        if (by_code and code in by_code["values"]) or (by_condition and {each["type"] for each in by_condition} & {*conditions}):
            return str(rule["action"])
    return "Count"


@pytest.mark.parametrize("arguments", [[], ["--jobset"]], ids=["job", "jobset"])
def test_each_exit_code_does_what_it_means(arguments):
    """78, 93 and 2 fail at once, also on an evicted node; 75 and evictions cost nothing; all else is counted."""
    spec = job_spec(printed(*arguments)[-1])
    evicted = ("DisruptionTarget",)
    assert [action(spec, code) for code in (2, 78, 93)] == ["FailJob"] * 3
    assert action(spec, 78, evicted) == "FailJob"
    assert [action(spec, 75), action(spec, 75, evicted), action(spec, 137, evicted)] == ["Ignore"] * 3
    assert [action(spec, code) for code in (1, 137, 143)] == ["Count"] * 3
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_pod_outlives_the_grace_period_and_has_the_volume():
    """The supervisor is process 1 and has fifteen seconds more than it gives the program; the claim that is printed is the one in use."""
    claim, job = printed("--grace=2m", "--mount=/data", "--limit=nvidia.com/gpu=1")
    pod = job_spec(job)["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 135
    assert container(job)["command"] == ["resilient", "run", "--grace", "2m", "--", "python", "train.py"]
    assert container(job)["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert [mount["mountPath"] for mount in container(job)["volumeMounts"]] == ["/data"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def expanded(text: str, variables: dict[str, str]) -> str:
    """As Kubernetes expands a command: $(NAME) is replaced if there is such a variable, $$ is $, and any other $ itself."""
    return re.sub(r"\$(\$|\((\w+)\))", lambda match: "$" if match[1] == "$" else variables.get(match[2], match[0]), text)


def test_the_command_arrives_as_it_was_typed():
    """Through YAML and through Kubernetes' expansion of variables."""
    odd = (
        "python", "$(A)", "$$(A)", "$", "$$", "$A", "yes", "No", "null", "~", "1e3", "12:30:00", "0x1F", "", " ", "- a", "a: b", "# c",
        "é🙂\u2028\x85\x07", "new\nline", "'", '"', "\\", "{}", "[]", "*a", "&a", "!a", "%", "@", "`", "|", ">", "\ufeff",
    )  # fmt: skip
    (_, job) = printed(f"--env=A={''.join(odd[1:])}", command=odd)
    assert [expanded(word, {"A": "wrong"}) for word in container(job)["command"]] == ["resilient", "run", "--", *odd]
    assert [expanded(each["value"], {"A": "wrong"}) for each in container(job)["env"]] == ["".join(odd[1:])]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
def test_whatever_is_written_as_yaml_is_read_back(value):
    """Mappings, lists, texts of any kind, integers and booleans."""
    assert yaml.safe_load(document(value)) == value
