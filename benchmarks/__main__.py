"""`python -m benchmarks`: all of them."""

from __future__ import annotations

from benchmarks import batch_order

batch_order.main()
