"""Fuzzing: random training steps on every backend, with every pass on and off, compared.

generate.py   a seed -> a graph: forward, gradients, optimizer, from all ops of the registry
pool.py       the values of a growing graph, and their numbers
proposals.py  operands and attributes for each op; regions.py for control flow
numerics.py   how far two right implementations of a graph may differ, by perturbed runs
check.py      a graph on all backends against the oracle
worker.py     the same in a process of its own, which may crash
shrink.py     a failing graph -> a small one
campaign.py   seeds one after another; bisect.py names the pass and the rewrite
"""
