"""The measurements of the supervisor and of the notices: that they measure what they say."""

from __future__ import annotations

import pytest

from benchmarks import notice, supervise


def test_starts_kills_and_watching_are_measured(tmp_path):
    """In the smallest scale, with real processes; whether the figures are good is for a quiet machine to say."""
    figures = supervise.measure(supervise.SCALES["toy"], tmp_path)
    assert min(figures["bare"]["median"], figures["starts"]["median"]) > 0
    assert figures["again"]["count"] == 1 and figures["again"]["median"] > 0
    assert 10e6 < figures["rss"] < figures["rss"] + figures["guard"]
    shown = "".join(table.markdown() for table in supervise.tables(figures))
    assert "SIGKILL to the program's first line again (1 kills)" in shown
    assert len(supervise.bars(figures)) == 3


@pytest.mark.parametrize(("took", "met"), [(1.2, True), (1.4, False)])
def test_a_notice_is_judged_by_the_time_that_it_may_take(took, met):
    """Interval, batch and writing; the worst one decides."""
    one = {"seen": 1.0, "took": 0.5, "batch": 0.1, "writing": 0.1, "allowed": 1.3}
    figures = {"batch": 0.1, "platforms": {"azure": [one, {**one, "took": took}]}}
    (bar,) = notice.bars(figures)
    assert bar.met is met and bar.reached == f"{took * 1e3:.0f} ms at worst"
    assert "azure" in notice.tables(figures)[0].markdown()
