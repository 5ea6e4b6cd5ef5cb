"""Measurements: what the library costs, against what a program would use without it and what the machine allows."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported, and would talk between the tables
