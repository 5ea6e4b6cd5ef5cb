"""A Job of Kubernetes, or a JobSet, and the volume claim beside it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from resilient.errors import EXIT_PREEMPTED, ConfigurationError
from resilient.units.launch import AFTER_GRACE, FINAL_CODES, Launch
from resilient.units.yaml_text import Value, document

_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_DOTTED = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.ASCII)
_LONGEST_NAME = 40  # Job and JobSet append to it, and a pod's name has 63 characters
_QUANTITY = re.compile(r"\d+(\.\d+)?([EPTGMk]i?|Ki|m)?", re.ASCII)
_VOLUME = "runs"

_HEAD = """\
# Printed by `resilient unit kubernetes`.
#   start it     kubectl apply -f {name}.yaml
#   watch it     kubectl logs -f {kind}/{name}
#   stop it      kubectl delete {kind} {name} (the state is saved; apply it again to go on)
# Evictions and exit code {preempted} cost nothing: the pod is replaced. {final} fail at once. All else counts, {retries} times.
"""


@dataclasses.dataclass(frozen=True)
class Pod:
    """What the pod needs.

    Attributes:
        image: with the program, its libraries and `resilient`.
        claim: name of the claim of the volume for the run directory, None for one that is printed too.
        storage: size of that one.
        mount: where the volume is in the container.
        resources: limits by name, such as {"nvidia.com/gpu": "1"}.
        retries: how many failures of the whole pod are allowed.

    Raises:
        ConfigurationError: Kubernetes would not take one of them.
    """

    image: str
    claim: str | None = None
    storage: str = "20Gi"
    mount: str = "/runs"
    resources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retries: int = 6

    def __post_init__(self) -> None:
        if not self.image or re.search(r"\s", self.image):
            raise ConfigurationError(f"--image {self.image!r} is no image. Name one as in REGISTRY/NAME:TAG.")
        if self.claim is not None and not _DOTTED.fullmatch(self.claim):
            raise ConfigurationError(f"--claim {self.claim!r} is no name of a volume claim. `kubectl get pvc` lists them.")
        if not self.mount.startswith("/") or ":" in self.mount or self.mount == "/":
            raise ConfigurationError(f"--mount {self.mount!r} is no place for a volume. Name an absolute path, such as /runs.")
        for option, amount in (("--storage", self.storage), *((f"--limit {name}", amount) for name, amount in self.resources.items())):
            if not _QUANTITY.fullmatch(amount):
                raise ConfigurationError(f"{option} {amount!r} is no quantity. Write it as Kubernetes does, such as 20Gi or 4.")


def manifest(launch: Launch, pod: Pod, *, jobset: bool = False) -> str:
    """YAML for `kubectl apply`.

    Raises:
        ConfigurationError: the name is none that Kubernetes takes.
    """
    if not _LABEL.fullmatch(launch.name) or len(launch.name) > _LONGEST_NAME:
        raise ConfigurationError(
            f"--name {launch.name!r} is no name that Kubernetes takes. Use up to {_LONGEST_NAME} small letters, digits and hyphens, "
            "with a letter first."
        )
    documents = [] if pod.claim is not None else [document(_claim(launch, pod))]
    documents.append(document(_jobset(launch, pod) if jobset else _job(launch, pod)))
    *others, last = map(str, FINAL_CODES)
    final = f"{', '.join(others)} and {last}"
    kind = "jobset" if jobset else "job"
    return _HEAD.format(name=launch.name, kind=kind, preempted=EXIT_PREEMPTED, final=final, retries=pod.retries) + "---\n".join(documents)


def _claim(launch: Launch, pod: Pod) -> Mapping[str, Value]:
    # One node at a time: together with the lock in the run directory, no two pods ever train there, even where a Job starts two.
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": launch.name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": pod.storage}}},
    }


def _job(launch: Launch, pod: Pod) -> Mapping[str, Value]:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": launch.name}, "spec": _job_spec(launch, pod, pod.retries)}


def _jobset(launch: Launch, pod: Pod) -> Mapping[str, Value]:
    """The inner Job replaces what was preempted, and fails with the first other failure, which the JobSet then counts."""
    template: Mapping[str, Value] = {"spec": _job_spec(launch, pod, 0)}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": launch.name},
        "spec": {
            "failurePolicy": {
                "maxRestarts": pod.retries,
                "restartStrategy": "BlockingRecreate",  # no new pod before the last old one is gone
                "rules": [{"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "trainer", "replicas": 1, "template": template}],
        },
    }


def _job_spec(launch: Launch, pod: Pod, retries: int) -> Mapping[str, Value]:
    return {
        "backoffLimit": retries,
        "podReplacementPolicy": "Failed",  # no new pod before the old one has ended
        "podFailurePolicy": {"rules": _rules(launch)},
        "template": {"spec": _pod_spec(launch, pod)},
    }


def _rules(launch: Launch) -> list[Value]:
    """The first that matches decides; what none matches is counted. A rule by exit code comes first: an evicted pod may need a human."""
    return [
        {"action": "FailJob", "onExitCodes": {"containerName": launch.name, "operator": "In", "values": list(FINAL_CODES)}},
        {"action": "Ignore", "onExitCodes": {"containerName": launch.name, "operator": "In", "values": [EXIT_PREEMPTED]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _pod_spec(launch: Launch, pod: Pod) -> Mapping[str, Value]:
    return {
        "restartPolicy": "Never",  # podFailurePolicy asks for it
        "terminationGracePeriodSeconds": math.ceil(launch.grace + AFTER_GRACE),
        "containers": [_container(launch, pod)],
        "volumes": [{"name": _VOLUME, "persistentVolumeClaim": {"claimName": pod.claim or launch.name}}],
    }


def _container(launch: Launch, pod: Pod) -> Mapping[str, Value]:
    optional: dict[str, Value] = {}
    if launch.directory is not None:
        optional["workingDir"] = launch.directory
    if launch.environment:
        optional["env"] = [{"name": name, "value": _unexpanded(value)} for name, value in launch.environment]
    if pod.resources:
        optional["resources"] = {"limits": dict(pod.resources)}
    return {
        "name": launch.name,
        "image": pod.image,
        "command": [_unexpanded(word) for word in launch.words],
        **optional,
        "volumeMounts": [{"name": _VOLUME, "mountPath": pod.mount}],
    }


def _unexpanded(text: str) -> str:
    """Kubernetes replaces $(NAME) in commands and values, and reads $$ as $."""
    return text.replace("$", "$$")
