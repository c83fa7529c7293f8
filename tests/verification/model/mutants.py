"""Rules that are broken on purpose: the model must show what each of them is for.

`python tests/verification/model/mutants.py` prints how each goes wrong, step by step.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "support")]

from model.protocol import CONFIGURATIONS, MERGED, ONE, TWO, Configuration, Explored, begins, explore, pushes, worlds
from model.world import (
    COMPLETE_PULLS,
    ENDS,
    GRACE,
    NOT_TWICE,
    REACHABLE,
    WHOLE_PACKS,
    WHOLE_ROWS,
    Actor,
    Rules,
)


class Mutant(NamedTuple):
    """A protocol that is wrong.

    Attributes:
        off: The rules that it breaks.
        configuration: Where that shows.
        breaks: The property that does not hold.
    """

    off: tuple[str, ...]
    configuration: Configuration
    breaks: str


_push = CONFIGURATIONS["a push, a prune, a pull"]
_again = CONFIGURATIONS["a push under the plan of one that died, again, a prune"]
_merged = CONFIGURATIONS["merged packs, a prune that dies, another, two pulls"]
_merge_lost = CONFIGURATIONS["a merge that loses an object, a prune, two pulls"]
_gaps = CONFIGURATIONS["listings that lack pages, a push, a prune"]
_compactions = CONFIGURATIONS["two compactions, a death"]
_listed_before = Configuration(
    worlds(MERGED, begins("pruner"), Actor("reader", "manifests", (1, 0b11, 0, 0, 0b11, 0, 0, 0, 0), (0, 0))), GRACE
)
"""The reader listed packs 0 and 1, and then they were merged."""

_wakes = Configuration(worlds(ONE, pushes(1), begins("pruner")), GRACE)
_in_a_hurry = Configuration(worlds(ONE, pushes(1), begins("pruner")), 1)

MUTANTS = {
    "the manifest goes first": Mutant(("objects_before_manifest",), _push, WHOLE_PACKS),
    "rows are acknowledged before the manifest": Mutant(("acknowledged_after_manifest",), _push, REACHABLE),
    "a prune does not wait": Mutant(("prune_waits",), _in_a_hurry, WHOLE_PACKS),
    "a prune goes by the clock of its machine": Mutant(("storage_clock",), _in_a_hurry, WHOLE_PACKS),
    "a prune deletes objects before their manifest": Mutant(("prune_deletes_manifests_first",), _merged, WHOLE_PACKS),
    "a prune believes a listing that lacks a page": Mutant(("prune_asks_for_manifests_by_name",), _gaps, WHOLE_PACKS),
    "a prune believes a listing without a manifest": Mutant(
        ("prune_asks_for_manifests_by_name", "prune_refuses_bare_listings"), _gaps, WHOLE_PACKS
    ),
    "a prune takes a merge for whole that is not": Mutant(("prune_wants_merges_whole",), _merge_lost, REACHABLE),
    "a name is used again after it was deleted": Mutant(("old_names_are_dropped",), _again, WHOLE_PACKS),
    "a writer counts from its first request, not from its plan": Mutant(
        ("time_counts_from_the_plan",), _again, WHOLE_PACKS
    ),
    "a writer never gives up": Mutant(
        ("gives_up_before_the_manifest", "looks_again_after_the_manifest"), _wakes, REACHABLE
    ),
    "a writer asleep in its last request does not look again": Mutant(
        ("looks_again_after_the_manifest",), _wakes, REACHABLE
    ),
    "a compaction does not look again": Mutant(("compactor_looks_again",), _compactions, NOT_TWICE),
    "a merge supersedes what it does not hold": Mutant(
        ("merges_what_it_names",), CONFIGURATIONS["bytes that are not as stored, a compaction, a prune"], COMPLETE_PULLS
    ),
    "merges are merged again": Mutant(("merges_are_final",), Configuration(worlds(TWO, begins("compactor")), 0), ENDS),
    "a reader goes by objects, without manifests": Mutant(("reads_by_manifest",), _push, WHOLE_ROWS),
    "a reader takes a merge for read that it could not read": Mutant(
        ("reads_sources_of_a_broken_merge",), _merge_lost, COMPLETE_PULLS
    ),
    "a reader does not list again": Mutant(("lists_again",), _listed_before, COMPLETE_PULLS),
    "a reader believes an empty listing": Mutant(
        ("refuses_empty_listings",), CONFIGURATIONS["a listing that is empty, two pulls, a push"], COMPLETE_PULLS
    ),
}


def found(mutant: Mutant) -> Explored:
    """Explore with the rules broken."""
    return explore(mutant.configuration, replace(Rules(), **dict.fromkeys(mutant.off, False)))


def main() -> None:
    """Print how each goes wrong."""
    for name, mutant in MUTANTS.items():
        met = found(mutant)
        print(
            f"{name}\n  after {met.states:,} states: {met.broken or 'NOT FOUND'}", *met.trace, sep="\n    ", flush=True
        )


if __name__ == "__main__":
    main()
