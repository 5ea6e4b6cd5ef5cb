"""`python -m benchmarks [NAME ...]`: all of them, or those that are named, each in a process of its own.

After all of them it draws the plots and writes the tables of `docs/performance.md`.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import page, plots
from benchmarks.running import arguments

INPUTS = ("batch_order", "array_fit", "dataset_fit", "resume_place")  # they print, and have no sizes to choose
ALL = (*page.MEASURED, *INPUTS)


def main() -> int:
    """Exit code: 1 where one of them failed."""
    parser = arguments(__doc__ or "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(ALL)} (default: all)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in ALL]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}. Name some of {', '.join(ALL)}")
    passed = ["--scratch", str(options.scratch)]
    passed += ["--quick"] if options.quick else []
    passed += ["--results", str(options.results)] if options.results else []
    began = time.perf_counter()
    failed = []
    for name in options.names or ALL:
        print(f"-- {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *([] if name in INPUTS else passed)], check=False).returncode:
            failed.append(name)
    if not options.names and not options.quick and not options.results:
        plots.main()
        page.main()
    print(f"{time.perf_counter() - began:.0f} s in all{'; failed: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
