"""Counts, sizes and durations as text."""

from edge_agent.formatting import counted, format_bytes, format_duration, shorten_digests


def test_a_size_is_written_in_the_largest_unit_that_fits():
    """Units are powers of ten, with one decimal from 1 kB on."""
    sizes = {1: "1 byte", 999: "999 bytes", 1000: "1.0 kB", 2.5e6: "2.5 MB", 144_800_000: "144.8 MB", 3e9: "3.0 GB"}
    assert [*sizes.values(), "1.0 TB"] == [format_bytes(size) for size in (*sizes, 10**12)]


def test_a_duration_is_written_in_the_largest_unit_of_which_it_has_two():
    """119 s stay seconds, and a clock that went back gives 0 s."""
    spans = {-5: "0 s", 59: "59 s", 119: "119 s", 130: "2 min", 3 * 3600: "3 h", 2 * 86_400: "2 days"}
    assert [*spans.values()] == [format_duration(seconds) for seconds in spans]


def test_noun_is_singular_only_for_one():
    """One has the singular, every other number the plural."""
    assert ["0 files", "1 file", "2 files"] == [counted(number, "file") for number in (0, 1, 2)]
    assert ["1 family", "2 families", "2 keys"] == [counted(1, "family"), counted(2, "family"), counted(2, "key")]


def test_a_digest_in_a_sentence_is_shortened():
    """Each SHA-256 is shortened to 12 characters; longer and shorter runs of hexadecimal digits stay."""
    said = f"blobs/{'ab' * 32} and {'12' * 32}; {'c' * 63}; {'d' * 65}"
    assert f"blobs/abababababab… and 121212121212…; {'c' * 63}; {'d' * 65}" == shorten_digests(said)
