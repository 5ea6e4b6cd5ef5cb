"""The report as a person sees it: in a real browser, on a phone and a desk, in light and dark, and on paper."""

from __future__ import annotations

import browser
import pytest
from cli_samples import a_run, manifest, tensors
from report_samples import BEGAN, Diary, long_run

from resilient.report import Kill, Storm, write_report
from resilient.store import Store

pytestmark = pytest.mark.skipif(browser.found() is None, reason="no Chromium on this machine (apt-get install chromium)")

LONG = "a_metric_whose_name_never_ends_" * 12
# Elements that stick out of the window and are not in a box that scrolls.
OVERFLOW = """(() => {
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return wide > 0 ? wide : 0;
})()"""
# Texts whose contrast to what they stand on is below WCAG's 4.5, with their ratio.
PALE = """(() => {
  const parse = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.className} ${walker.currentNode.textContent.slice(0, 40)}`);
  }
  return found;
})()"""
SMALLEST = """Math.min(...[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && [...e.childNodes].some(
  n => n.nodeType === 3 && n.textContent.trim())).map(e => parseFloat(getComputedStyle(e).fontSize)))"""
# Pairs of labels of one axis that overlap.
COLLIDING = """(() => {
  let count = 0;
  for (const axis of document.querySelectorAll('.xs, .ys')) {
    const boxes = [...axis.querySelectorAll('span')].filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect());
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) count += 1;
    }
  }
  return count;
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of every kind of run, by name."""
    root = tmp_path_factory.mktemp("pages")
    runs = {
        "month": long_run(root / "month", attempts=40, saves=60, names=("loss", "accuracy", "f1", "auc", "mse")),
        "many": long_run(root / "many", attempts=400, saves=4),
        "short": long_run(root / "short", attempts=3, saves=4),
        "store": _a_store(root / "store"),
        "hostile": _hostile(root / "hostile"),
    }
    storm = Storm(False, "The ends differ " * 20, [Kill(LONG, BEGAN, 1)] * 30, LONG, [("command", LONG)])
    for name, run in runs.items():
        write_report(run, root / f"{name}.html", storm if name == "hostile" else None)
    return {name: root / f"{name}.html" for name in runs}


def _a_store(directory):
    run = a_run(directory, final=True)
    made = manifest(40, epoch=4, batch=0, val_loss=0.4)
    Store(run).commit(type(made)(**{**vars(made), "metrics": {LONG: 1.0, **made.metrics}}), tensors(40))
    Store(run).quarantine("step-000000000010", LONG)
    return run


def _hostile(directory):
    diary = Diary(directory)
    diary.tell("attempt", attempt=1, pid=1, supervisor=2, command=[LONG, "<script>document.title = 'run'</script>"], began="", skip=[])
    diary.tell("started", pid=1, run_id=LONG, fresh=True)
    for step in range(4):
        diary.wait(1)
        metrics = {LONG: float(step), "loss": 1e-300 * 10.0 ** (80 * step), "<img src=http://127.0.0.1:9/x>": 1.0}
        diary.tell("saved", step=step * 10**11, epoch=step, batch=0, nbytes=2**62, seconds=0.1, metrics=metrics)
    diary.tell("save_failed", error=LONG, failures=1)
    diary.tell("exited", attempt=1, code=1, reason=LONG, verdict="failed", peak_rss=2**62)
    diary.tell("gave_up", failures=[LONG])
    return diary.close()


@pytest.fixture(scope="module")
def chromium():
    with browser.Page() as page:
        yield page


KINDS = ("month", "many", "short", "store", "hostile")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [390, 768, 1100])
def test_the_page_fits_and_asks_for_nothing(pages, chromium, kind, width):
    """At the width of a phone, a tablet and a desk: nothing sticks out, no label covers another, no request, no word on the console."""
    chromium.open(pages[kind], width=width, phone=width < 500)
    assert chromium.value(OVERFLOW) == 0
    assert chromium.value(COLLIDING) == 0
    assert [url for url in chromium.requests() if not url.startswith("data:")] == [pages[kind].as_uri()]
    assert chromium.complaints() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read(pages, chromium, kind, dark):
    """In light and dark every text has a contrast of 4.5 to what is behind it, and none is smaller than 11 pixels on a phone."""
    chromium.open(pages[kind], width=390, phone=True, dark=dark)
    chromium.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert chromium.value(PALE) == []
    assert chromium.value(SMALLEST) >= 11
    ground = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark


def test_wide_tables_scroll_in_a_box_of_their_own(pages, chromium):
    """On a phone the table of attempts is wider than its box, and can be reached by the keyboard."""
    chromium.open(pages["short"], width=390, phone=True)
    table = "[...document.querySelectorAll('.scroll')].find(e => e.ariaLabel === 'Attempts')"
    assert chromium.value(f"{table}.scrollWidth > {table}.clientWidth + 50")
    assert chromium.value(f"({table}.focus(), document.activeElement === {table})")


def test_marks_and_lanes_lie_where_the_curve_is(pages, chromium):
    """What ended the last attempt is marked at the end of the curve; the lanes share the curve's axis."""
    chromium.open(pages["short"], width=1100)
    box = "document.querySelector('.timeline .plot .area').getBoundingClientRect()"
    mark = "document.querySelector('.timeline .mark.finished').getBoundingClientRect()"
    assert abs(chromium.value(f"{mark}.left + {mark}.width / 2 - {box}.right")) < 2
    assert abs(chromium.value(f"{mark}.top + {mark}.height / 2 - {box}.top")) < 2
    lanes = "[...document.querySelectorAll('.lane .area')].map(e => e.getBoundingClientRect())"
    assert chromium.value(f"{lanes}.every(e => Math.abs(e.left - {box}.left) < 2 && Math.abs(e.right - {box}.right) < 2)")


def test_paper_shows_what_is_folded_and_is_white(pages, chromium, tmp_path):
    """In print what is folded is open, colours are those of the light page, and the tables are not cut."""
    chromium.open(pages["month"], width=794, dark=True)
    shown = "document.querySelector('details table').checkVisibility()"
    assert chromium.value("document.querySelector('details').open") is False and chromium.value(shown) is False
    chromium.ask("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert chromium.value(shown) is True
    assert chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.value("[...document.querySelectorAll('.scroll')].every(e => getComputedStyle(e).overflowX === 'visible')")
    chromium.ask("Emulation.setEmulatedMedia", media="")
    chromium.print_to(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") >= 3


def test_the_browser_notices_a_bad_page(chromium, tmp_path):
    """Negative control: overflow, a request, a word on the console and pale text are seen where they are."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><body style='background: #fff'><div style='width: 2000px; color: #ccc; font-size: 6px'>wide</div>"
        "<div class=xs><span>one</span><span style='margin-left: -1em'>two</span></div>"
        "<img src='http://127.0.0.1:9/picture'><script>console.error('trouble')</script>"
    )
    chromium.open(bad, width=390, phone=True)
    assert chromium.value(OVERFLOW) > 0 and chromium.value(COLLIDING) == 1
    assert "http://127.0.0.1:9/picture" in chromium.requests()
    assert any("trouble" in word for word in chromium.complaints())
    assert len(chromium.value(PALE)) == 1 and chromium.value(SMALLEST) == 6
