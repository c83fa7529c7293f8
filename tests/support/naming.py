"""Names of test cases that are the same in every process."""

import re


def named(value: object) -> str:
    """Return what a value looks like, without its address."""
    return re.sub(r" at 0x[0-9a-f]+", "", value if isinstance(value, str) else repr(value))
