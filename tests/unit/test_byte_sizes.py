"""Sizes in bytes as people read them."""

from edge_agent.byte_sizes import format_bytes


def test_a_size_is_written_in_the_largest_unit_that_fits():
    """Units are powers of ten; there is one digit after the point, and none below a thousand."""
    sizes = {1: "1 byte", 999: "999 bytes", 1000: "1.0 kB", 2.5e6: "2.5 MB", 144_800_000: "144.8 MB", 3e9: "3.0 GB"}
    assert [*sizes.values(), "1.0 TB"] == [format_bytes(size) for size in (*sizes, 10**12)]
