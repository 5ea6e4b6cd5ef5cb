"""What a supervisor hears of a training that reads its data again to find its place."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import resilient
from resilient.heartbeat import ENVIRONMENT, Page, Section
from tests.test_fit_exact import built
from tests.test_fit_inputs import batches
from tests.test_fit_inputs_edges import FailsOnce


@pytest.mark.filterwarnings("ignore:If this training is interrupted")
def test_every_batch_that_is_read_again_is_a_sign_of_life(tmp_path, monkeypatch):
    """A generator is replayed from its start: that may take hours, in which no batch is trained."""
    heard = []

    def watched(page):
        for batch in batches():
            heard.append(page.beat())
            yield batch

    arguments = {"steps_per_epoch": 7, "epochs": 4, "verbose": 0, "directory": tmp_path, "monitor": "loss", "save_every": 1}
    with pytest.raises(RuntimeError, match="stopped"):
        resilient.fit(built(), batches(), callbacks=[FailsOnce(20)], **arguments)
    with contextlib.closing(Page()) as page:
        monkeypatch.setenv(ENVIRONMENT, page.path)
        resilient.fit(built(), watched(page), callbacks=[FailsOnce(10**9)], **arguments)
    again = [beat for beat in heard if beat.section is Section.STARTING and beat.progress is not None]
    resumed = again[0].progress.step
    replayed = [beat.count for beat in again if beat.progress.step == resumed][: resumed - 2]  # two were looked at before, for their shapes
    assert len(replayed) > 5
    assert np.all(np.diff(replayed) >= 1)
