"""Sizes with units, to the byte.

pytest tests/test_sizes.py
"""

import pytest

import lwq
from lwq.common.sizes import parse_bytes, readable


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("95MB", 95_000_000),
        ("1.2GiB", 1_288_490_188),  # 1.2 · 1024³ = 1288490188.8
        ("95 mb", 95_000_000),
        ("0.5 KiB", 512),
        ("7", 7),
        ("7B", 7),
        ("3.", 3),
        ("9007199254740993", 2**53 + 1),  # no float holds that
        ("1.000000000000001TB", 1_000_000_000_000),
    ],
)
def test_bytes_of_a_size(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-1MB", "1e6", "95 M", "1,5GB", "0", "0.4", "nan", "5XB"]
)
def test_anything_else_is_refused_with_the_way_out(text):
    with pytest.raises(lwq.InputError, match="size=.*; (write|give)"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (84_188_160, "84.19 MB")],
)
def test_a_size_for_a_reader(size, text):
    assert readable(size) == text


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 38_418_048, 38_410_000, 10**15 + 1])
def test_a_size_that_must_fit_is_rounded_up(size):
    shown = parse_bytes(readable(size, up=True).replace(",", "").replace("bytes", ""))
    assert size <= shown <= 1.01 * size


@pytest.mark.parametrize("size", [1, 12_345, 7 * 10**8, 10**14, 3 * 10**17])
def test_what_is_read_is_what_was_written(size):
    assert parse_bytes(readable(size).replace(",", "").replace("bytes", "")) == pytest.approx(
        size, rel=0.005
    )
