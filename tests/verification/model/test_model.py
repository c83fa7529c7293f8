"""The protocol, explored: nothing is lost or wrong in any order of steps, and each rule is there for a reason."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest

from model.mutants import MUTANTS, found
from model.protocol import CONFIGURATIONS, explore
from model.world import Rules
from scale import SCALE
from tiers import sampled

BOUNDED = [name for name, configuration in CONFIGURATIONS.items() if SCALE > 1 or not configuration.large]


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """States are tuples without cycles: to look for cycles among millions takes longer than to make them."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.verify
@pytest.mark.parametrize("name", sampled(BOUNDED, keep={"a push, a prune, a pull"}))
def test_every_property_holds_in_every_state(name: str, figure: Callable[[str, int], None]) -> None:
    """All orders of all steps, all sleeps and deaths within the bounds."""
    met = explore(CONFIGURATIONS[name])
    assert not met.broken, "\n".join([met.broken, *met.trace])
    figure("model states", met.states)
    figure("model transitions", met.transitions)
    figure("model configurations", 1)


@pytest.mark.parametrize("name", sampled(MUTANTS, keep={"the manifest goes first"}))
def test_each_rule_is_needed(name: str, figure: Callable[[str, int], None]) -> None:
    """Without it, the property that it is for does not hold, and there are steps that show it."""
    met = found(MUTANTS[name])
    assert met.broken == MUTANTS[name].breaks, "\n".join(met.trace)
    figure("model mutants found", 1)


def test_each_rule_has_a_mutant() -> None:
    """A rule of the model that no mutant breaks would be one that nobody knows to matter."""
    broken = {name for mutant in MUTANTS.values() for name in mutant.off}
    assert broken == {field.name for field in fields(Rules)}
