"""The documentation is true: its examples run, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def program(page: Path) -> str:
    """The page's Python blocks as one program, each line where it stands on the page, so that a traceback names the right one."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for match in _FENCE.finditer(text):
        if match[1] == "python":
            first = text.count("\n", 0, match.start(2))
            for offset, line in enumerate(match[2].splitlines()):
                lines[first + offset] = line
    return "\n".join(lines)


def links(page: Path) -> list[str]:
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(prose) if "://" not in link and not link.startswith(("#", "mailto:"))]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", [page for page in PAGES if program(page).strip()], ids=name)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """All Python blocks of a page, in order, are one program that ends well in an empty directory."""
    code = f"import sys; exec(compile(sys.stdin.read(), {name(page)!r}, 'exec'))"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, input=program(page), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    """Every relative link names a file or directory of the repository."""
    broken = [link for link in links(page) if not (page.parent / link.split("#")[0]).exists()]
    assert broken == []


def test_the_pages_have_examples_and_links() -> None:
    """The two tests above look at something: the pages that explain behaviour have examples, and the README links to the docs."""
    assert {page.stem for page in PAGES if program(page).strip()} >= {"promises", "exactness"}
    assert any(link.startswith("docs/") for link in links(ROOT / "README.md"))
