"""Sizes as people write them: `95MB`, `1.2GiB`."""

import re

from lwq.common.errors import InputError

_STEPS = "kmgtp"
UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate(_STEPS, start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate(_STEPS, start=1)},
}


def readable(size: int, up: bool = False) -> str:
    """`84.19 MB`: bytes in the largest unit that leaves 1 or more, 1 MB = 1000² bytes. `up`: never
    less than there are, as a limit that they must fit into.
    """
    power = min((len(str(size)) - 1) // 3, len(_STEPS))
    units = ("bytes", "kB", *(f"{letter.upper()}B" for letter in _STEPS[1:]))
    step = 1000**power // 100 or 1  # bytes of the last digit
    shown = -(-size // step) * step if up else size
    return f"{shown / 1000**power:,.2f} {units[power]}" if power else f"{size} bytes"


def parse_bytes(text: str) -> int:
    """Bytes from a number and a unit: 1 MB = 1000² bytes, 1 MiB = 1024²; a bare number is bytes.

    Upper or lower case, with or without a space; part of a byte is cut off, so that no limit grows.
    Raises InputError for anything else, and for a size that is not above 0.
    """
    found = re.fullmatch(r"\s*([0-9]+)(?:\.([0-9]*))?\s*([a-z]*)\s*", text.lower())
    if found is None or found[3] not in UNITS:
        raise InputError(
            f"size={text!r} is no size; write a number and a unit, such as 95MB (1000² bytes), "
            "1.2GiB (1024³) or 95000000"
        )
    whole, part, unit = found[1], found[2] or "", found[3]
    # in whole numbers: floats would lose bytes of what is large
    size = int(whole + part) * UNITS[unit] // 10 ** len(part)
    if size < 1:
        raise InputError(f"size={text!r} is less than a byte; give one that a model could have")
    return size
