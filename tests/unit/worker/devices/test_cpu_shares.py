"""Which cores each of several CPU processes gets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.settings import Settings
from worker.devices.cpu_shares import share_cores
from worker.devices.discovery import Machine, numa_nodes
from worker.devices.placement import plan

TWO = ((0, 8, 1, 9, 2, 10, 3, 11), (4, 12, 5, 13, 6, 14, 7, 15))
"""Two nodes of four physical cores with two threads each, as a kernel numbers them."""


@pytest.mark.parametrize(
    ("processes", "nodes", "shares"),
    [
        (2, TWO, [set(TWO[0]), set(TWO[1])]),
        (4, TWO, [{0, 8, 1, 9}, {2, 10, 3, 11}, {4, 12, 5, 13}, {6, 14, 7, 15}]),
        (3, TWO, [{0, 8, 1, 9}, {2, 10, 3, 11}, set(TWO[1])]),
        (2, [(0, 1, 2, 3)], [{0, 1}, {2, 3}]),
        (2, [(0, 1, 2, 3, 4, 5), (6, 7)], [{0, 1, 2}, {3, 4, 5}]),
        (2, [(0, 1), (), (2, 3)], [{0, 1}, {2, 3}]),
        (1, TWO, None),
        (2, [], None),
        (3, [(0, 1)], None),
    ],
)
def test_each_process_gets_whole_cores_of_one_node(
    processes: int, nodes: Sequence[Sequence[int]], shares: list[set[int]] | None
) -> None:
    assert share_cores(processes, nodes) == shares


@given(
    st.integers(2, 40),
    st.lists(st.integers(0, 24), min_size=1, max_size=6),
)
def test_shares_are_disjoint_of_one_node_and_none_is_empty(
    processes: int, sizes: list[int]
) -> None:
    nodes = [tuple(range(100 * node, 100 * node + size)) for node, size in enumerate(sizes)]
    shares = share_cores(processes, nodes)
    if sum(sizes) < processes:
        assert shares is None
        return
    assert shares is not None
    assert len(shares) == processes
    assert all(shares)
    assert not any(one & other for one, other in combinations(shares, 2))
    assert all(len({core // 100 for core in share}) == 1 for share in shares)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A /sys/devices/system of two nodes."""
    for node, cores in enumerate(("0-3,8-11\n", "4-7,12-15\n")):
        folder = tmp_path / "node" / f"node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cores)
    for core in range(16):
        folder = tmp_path / "cpu" / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 8},{core % 8 + 8}\n")
    return tmp_path


def test_the_kernel_says_which_cores_a_node_has(system: Path) -> None:
    assert tuple(numa_nodes(frozenset(range(16)), system)) == TWO
    assert tuple(numa_nodes(frozenset({4, 12, 5}), system)) == ((4, 12, 5),)


def test_where_it_does_not_nobody_is_pinned(tmp_path: Path) -> None:
    assert tuple(numa_nodes(frozenset(range(16)), tmp_path)) == ()
    (tmp_path / "node" / "node0").mkdir(parents=True)
    (tmp_path / "node" / "node0" / "cpulist").write_text("nonsense\n")
    assert tuple(numa_nodes(frozenset(range(16)), tmp_path)) == ()


def test_cpu_processes_are_planned_onto_their_own_cores_and_threads() -> None:
    machine = Machine((), frozenset(range(16)), nodes=TWO)
    placements = plan(Settings(devices="cpu:4"), machine, {})
    assert [one.cores for one in placements] == share_cores(4, TWO)
    assert [one.threads for one in placements] == [4] * 4
    assert [one.cores for one in plan(Settings(devices="cpu"), machine, {})] == [frozenset()]
    free = plan(Settings(devices="cpu:4", cpu_affinity=False), machine, {})
    assert [(one.cores, one.threads) for one in free] == [(frozenset(), 4)] * 4
    limited = Machine((), frozenset(range(16)), quota=4, nodes=TWO)
    assert [one.threads for one in plan(Settings(devices="cpu:2"), limited, {})] == [2, 2]
