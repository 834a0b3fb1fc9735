"""Gives CPU processes cores of their own, each of one NUMA node. Pure.

A process whose threads and memory lie on two nodes waits for the link between them, and processes
that share cores take each other's caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Cores = frozenset[int]


def share_cores(processes: int, nodes: Sequence[Sequence[int]]) -> list[Cores] | None:
    """The cores of each process: disjoint, and those of one process on one node.

    nodes: the usable cores of each NUMA node, the threads of one physical core side by side, so
    that a process gets whole ones. None where there are fewer cores than processes, or
    nothing is known of them.
    """
    nodes = [node for node in nodes if node]
    if processes < 2 or sum(map(len, nodes)) < processes:
        return None
    counts = _per_node(processes, list(map(len, nodes)))
    return [
        cores for node, count in zip(nodes, counts, strict=True) for cores in _split(node, count)
    ]


def _per_node(processes: int, sizes: Sequence[int]) -> list[int]:
    """How many processes each node gets: each next one goes where it has most cores."""
    counts = [0] * len(sizes)
    for _ in range(processes):
        best = max(range(len(sizes)), key=lambda node: (sizes[node] / (counts[node] + 1), -node))
        counts[best] += 1
    return counts


def _split(node: Sequence[int], count: int) -> list[Cores]:
    """Its cores in `count` parts that differ by one at most."""
    edges = [len(node) * part // count for part in range(count + 1)] if count else [0]
    return [frozenset(node[first:end]) for first, end in pairwise(edges)]
