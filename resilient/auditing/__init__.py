"""What of a training could not be restored exactly, found before its first batch: in the data, the training function, the callbacks.

Each part answers with a list of `Finding`, empty where everything can be restored. Nothing is trained, and no data are read.
"""

from __future__ import annotations

from resilient.auditing.callbacks import callback_findings
from resilient.auditing.datasets import dataset_findings
from resilient.auditing.finding import Finding
from resilient.auditing.functions import training_findings
from resilient.auditing.training import fit_findings

__all__ = ["Finding", "callback_findings", "dataset_findings", "fit_findings", "training_findings"]
