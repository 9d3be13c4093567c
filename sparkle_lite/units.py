"""Units: spans of time in ms and s, sizes in bytes, and the bounds of what SQLite and clients keep in 64 bits."""

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

HOUR_S = 3600
DAY_S = 24 * HOUR_S
YEAR_S = 365 * DAY_S

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size_text(value: int) -> str:
    """Bytes in binary units."""
    amount, unit = float(value), 0
    # 1023.96 would be rounded to 1024.0 of the unit below.
    while amount >= 1023.95 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 or amount >= 100 else f"{amount:.1f} {_UNITS[unit]}"
