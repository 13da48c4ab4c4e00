"""A short run of the fuzzer; the long one is ``python -m tests.io.fuzz``."""

from tests.io import fuzz


def test_time_and_memory_are_bounded_by_the_size_of_the_file(tmp_path):
    rows = fuzz.run(200, seed=0, folder=tmp_path)
    assert len(rows) == 200
    assert 20 < sum(row.outcome == "read" for row in rows) < 180  # neither all good nor all broken
    fuzz.check(rows)
