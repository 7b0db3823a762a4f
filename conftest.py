"""Pytest set-up for the whole repository."""

import os

# Each xdist worker is one process on one core; more threads than cores only wait for each other.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import utils  # noqa: E402, F401  (puts every chapter's levels on the import path)

pytest_plugins = ["utils.exercises"]  # a learner's NotImplementedError is a skipped test
