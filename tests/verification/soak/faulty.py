"""What goes wrong at random in a soak: in the HTTP of a real server, or in the calls of a local directory.

Left out is what would break what is relied on of a storage (a write that was acknowledged and is not there, a listing
that is complete and lacks something, a clock that jumps): there rows may be missed rightly, and no judge could tell.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cas_cache.testing import Fault
from fault_proxy import FaultProxy, WireFault

ODDS_ON_THE_WIRE, ODDS_IN_CALLS = 0.0015, 0.001
"""Of each kind, in each request in which it can happen; a call is not tried again by anybody."""

NOT_THE_MARKER = "packs/|manifests/|specs/"
"""Everything but the marker proves itself; a mirror that meets a wrong id for the first time keeps it."""

EVERYWHERE = ("error", "error-after", "lost-answer", "slow-down", "too-many-requests", "forbidden", "failing-page")
EVERYWHERE += ("duplicate-entry", "stale-entry")
OF_OBJECTS = ("short-body", "flipped-bit", "range-ignored", "range-wrong")
ON_THE_WIRE = ("reset", "reset-in-body", "truncated", "redirect")
IN_CALLS = ("timeout", "repeated", "no-space")
SLOW = {"stall": 0.5, "timeout": 3.0}
"""Seconds of those that take time."""


@dataclass(frozen=True, slots=True)
class Sometimes(WireFault):
    """A fault that happens at random.

    Attributes:
        odds: Of each request in which it can happen.
        chance: What is asked.
    """

    odds: float = ODDS_ON_THE_WIRE
    chance: random.Random = field(default_factory=random.Random)

    def concerns(self, verb: str, path: str) -> bool:
        """Whether it happens here."""
        return Fault.concerns(self, verb, path) and self.chance.random() < self.odds


def faults(seed: object, *, wire: bool) -> list[Fault]:
    """Return what goes wrong on the wire, or in calls."""
    chance, odds = random.Random(str(seed)), ODDS_ON_THE_WIRE if wire else ODDS_IN_CALLS
    plain = dict.fromkeys((*EVERYWHERE, *(ON_THE_WIRE if wire else IN_CALLS), *SLOW))
    places = [(kind, "") for kind in plain] + [(kind, NOT_THE_MARKER) for kind in OF_OBJECTS]
    return [
        Sometimes(
            kind,
            times=None,
            path=path,
            which=chance.randrange(10_000) if path else 0,
            seconds=SLOW.get(kind, 0.0),
            odds=odds,
            chance=chance,
        )
        for kind, path in places
    ]


@contextmanager
def faulty_server(endpoint: str, seed: int, *, harm: bool) -> Iterator[tuple[str, Callable[[], Counter[str]]]]:
    """Yield the address of a proxy of an endpoint, and what tells how many faults of each kind it has injected.

    Args:
        endpoint: URL of the server.
        seed: Of what it does at random.
        harm: Whether it does any.
    """
    with FaultProxy(endpoint, faults(seed, wire=True) if harm else ()) as proxy:
        yield proxy.url, lambda: Counter(fault.kind for fault, _, _ in proxy.fired)
