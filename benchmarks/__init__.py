"""Aerogram beside other ways to move small messages: `python -m benchmarks`.

One row is one peer doing one work (see `work.py`) between two processes on loopback, each on a core
of its own. Every rate counts what reached a *handler*, never what a sender handed over. A further
peer is one module in `peers/` with `run_receiver` and `run_sender`, and a line in their `__init__`.
"""
