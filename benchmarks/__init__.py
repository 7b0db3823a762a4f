"""Speed and memory against the production libraries; ``python -m benchmarks.run``."""
