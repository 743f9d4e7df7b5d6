"""Speed measured: the library beside its peers, each contender in a process of its own.

A workload (`workloads/`) says in NumPy what is computed: inputs, weights, arithmetic. A contender (`ours`, `peers/`)
computes it with one framework. `worker` is the process that a contender lives in, `contender` the handle on it, `run`
asks them in turn and makes a `Record` of each, `report` and `figures` show the records. Nothing here asserts a time.

This package is imported by the worker of a peer, whose Python may have neither JAX nor Flax; so it imports nothing.
"""
