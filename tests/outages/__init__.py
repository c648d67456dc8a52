"""What faults do to clients: nodes, a broker and clients as processes, faults, and a verdict.

`cells.run_cell` plays one fault on one broker. `benchmarks/broker_faults.py` makes a table of all,
and `tests/integration/test_broker_faults.py` plays some. ``python -m tests.outages`` plays one.
"""
