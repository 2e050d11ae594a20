"""The defects netfslib had, and the tests that hold each here. The numbers are those under which the project lists them.

1   the zero point and the server's size             9   partial invalidation of dirty data
2   a short direct read before later parts           10  a read of what is dirty or being written
3   holes left by unbuffered writes                  11  sizes torn apart
4   a retry's memory not reset to the rest           12  arithmetic of extraction to scatterlists
5   read retries that hang                           13  atomic copies over page borders
6   the last part published too early or too late    14  limits of entries and of the peer in RDMA sends
7   issuing goes on after a failure                  15  credits kept on error paths
8   a streaming write overwritten
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TRAPS: dict[str, tuple[str, ...]] = {
    "1": (
        "netfs/test_traps.py::test_zero_point_when_the_local_size_is_ahead_of_the_servers",
        "netfs/test_trap_races.py::test_trap_1_the_operations_of_the_zero_point_report",
        "netfs/test_pagecache.py::test_zero_point_never_lies",
    ),
    "2": ("netfs/test_traps.py::test_short_direct_read_followed_by_more_subrequests",),
    "3": (
        "netfs/test_traps.py::test_unbuffered_write_leaves_no_hole_when_space_runs_out",
        "netfs/test_staging.py::test_no_hole_when_space_runs_out_and_every_area_is_back",
    ),
    "4": (
        "netfs/test_retry.py::test_any_size_before_and_after",
        "iov/test_traps.py::test_trap_4_partial_writes_of_changing_sizes",
    ),
    "5": (
        "netfs/test_retry.py::test_any_size_before_and_after",
        "netfs/test_retry.py::test_surplus_parts_are_dropped_when_more_goes_in_one",
        "netfs/test_retry.py::test_parts_are_made_when_less_goes_in_one",
    ),
    "6": ("netfs/test_trap_races.py::test_trap_6_every_mixture_of_ends_inside_the_issue_and_later",),
    "7": ("netfs/test_trap_races.py::test_trap_7_nothing_is_issued_after_a_failure_anywhere",),
    "8": ("netfs/test_traps.py::test_streaming_write_that_is_covered_by_a_whole_folio_leaves_no_dirty_record",),
    "9": (
        "netfs/test_trap_races.py::test_trap_9_a_cut_through_a_streaming_write",
        "netfs/test_pagecache.py::test_folio_ranges_against_sets_of_bytes",
    ),
    "10": (
        "netfs/test_trap_races.py::test_trap_10_a_read_of_what_is_being_written",
        "netfs/test_traps.py::test_read_of_the_gaps_around_a_streaming_write",
    ),
    "11": ("netfs/test_trap_races.py::test_trap_11_the_sizes_are_true_at_every_step",),
    "12": (
        "iov/test_traps.py::test_trap_12_tables_part_filled",
        "iov/test_traps.py::test_trap_12_no_entry_of_a_block_spans_pages",
    ),
    "13": ("iov/test_traps.py::test_trap_13_copies_into_a_folio_of_several_pages",),
    "14": (
        "conformance/test_transport.py::test_a_payload_cut_off_a_longer_vector_counts_its_own_segments",
        "rdma/test_traps.py::test_trap_14_lengths_are_not_believed",
    ),
    "15": ("netfs/test_trap_races.py::test_trap_15_nothing_is_held_after_any_error",),
    "write-through deadlock": ("netfs/test_trap_races.py::test_a_sync_waits_for_writeback_that_another_task_has_begun",),
    "writers skipped that needed the data safe": (
        "netfs/test_trap_races.py::test_a_sync_waits_for_writeback_that_another_task_has_begun",
    ),
    "use after free of abandoned folios": ("netfs/test_trap_races.py::test_abandoned_folios_are_unlocked_and_not_uptodate",),
    "readahead folios leaked when preparation fails": (
        "netfs/test_trap_races.py::test_folios_of_a_readahead_that_never_began_are_not_kept",
    ),
    "cancellation of direct I/O": (
        "netfs/test_cancel.py::test_cancel_at_every_checkpoint",
        "netfs/test_races.py::test_a_cancelled_direct_write_leaves_nothing_old_behind",
    ),
    "double termination": (
        "netfs/test_outcomes.py::test_every_combination",
        "netfs/test_bad_input.py::test_reads_of_a_filesystem_that_lies",
    ),
    "a request left paused with nothing for the server": (
        "netfs/test_trap_races.py::test_a_request_with_nothing_left_for_the_server_still_ends",
    ),
    "no memory for writeback": (
        "netfs/test_background.py::test_pressure_while_the_server_is_away_holds_writers_and_then_goes_on",
    ),
    "nodes dropped or counted wrongly": ("iov/test_traps.py::test_spent_nodes_are_dropped_but_never_the_last",),
    "cuts that move a walk": ("iov/test_traps.py::test_where_a_walk_is_cut_changes_nothing",),
    "the place of a block ignores its offset in the folio": (
        "netfs/test_trap_races.py::test_blocks_of_one_folio_are_sealed_by_their_place",
    ),
    "a retry that moves an iterator back": ("netfs/test_retry.py::test_a_run_keeps_what_its_first_part_has",),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_each_is_held_by_tests_that_exist(trap: str) -> None:
    for test in TRAPS[trap]:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, test


def test_all_fifteen_are_listed() -> None:
    assert [trap for trap in TRAPS if trap.isdecimal()] == [str(number) for number in range(1, 16)]
