"""`python -m benchmarks`: all of them."""

from __future__ import annotations

from benchmarks import array_fit, batch_order, dataset_fit, resume_place

batch_order.main()
array_fit.main()
dataset_fit.main()
resume_place.main()
