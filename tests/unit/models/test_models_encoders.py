"""Encoders of any class are described by their names and by the models that they hold."""

from __future__ import annotations

import functools
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cas_cache.models import appearance_of, describe_encoder, weights_fingerprint
from cas_cache.models.encoders import parts_of

if TYPE_CHECKING:
    from pathlib import Path


def layer(value: float) -> torch.nn.Module:
    built = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(built.weight, value)
    torch.nn.init.zeros_(built.bias)
    return built


class Holder:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


PLACES = {
    "an attribute": lambda module: Holder(network=module),
    "a private attribute": lambda module: Holder(_net=module),
    "a list": lambda module: Holder(parts=[1, module]),
    "a mapping of lists": lambda module: Holder(parts={"a": [module]}),
    "an object": lambda module: Holder(backend=Holder(engine=Holder(model=module))),
    "slots": lambda module: Holder(backend=Slotted(module)),
    "a bound method": lambda module: Holder(run=module.forward),
    "a closure": lambda module: Holder(run=lambda inputs: module(inputs) + 1),
    "a partial": lambda module: Holder(run=functools.partial(map, [module])),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_torch_module_is_found_under_any_attribute(place: str) -> None:
    """Two encoders with different weights have different descriptions, wherever they hold the weights."""
    one, other = PLACES[place](layer(1.0)), PLACES[place](layer(2.0))
    assert len(parts_of(one)) == 1
    assert describe_encoder(one) != describe_encoder(other)
    assert describe_encoder(one) == describe_encoder(PLACES[place](layer(1.0)))
    assert weights_fingerprint(one) != weights_fingerprint(other)


class Remembering(torch.nn.Module):
    """A custom module whose list the identity skips, because lists often hold caches."""

    def __init__(self, scales: list[float]) -> None:
        super().__init__()
        self.inner, self.scales = torch.nn.Linear(2, 2), scales


def test_lists_of_a_module_of_ones_own_are_in_the_appearance() -> None:
    """Lists that the identity skips are in the appearance, so that the self-check compares vectors."""
    one, other = (Holder(model=torch.nn.Sequential(Remembering([1.0, last]))) for last in (2.0, 3.0))
    assert appearance_of(one) == appearance_of(Holder(model=torch.nn.Sequential(Remembering([1.0, 2.0]))))
    assert appearance_of(one) != appearance_of(other)


def test_a_model_that_code_reads_as_a_global_is_in_the_appearance() -> None:
    """A model in a global variable of a script is in the appearance, although no attribute refers to it."""

    def looks(value: float) -> dict[str, str]:
        names: dict[str, Any] = {"__name__": "script_of_a_user", "MODELS": {"main": layer(value)}}
        exec("class Encoder:\n def encode(self, batch): return MODELS['main'](batch)", names)
        return appearance_of(names["Encoder"]())

    assert looks(1.0) == looks(1.0)
    assert looks(1.0) != looks(2.0)


def test_a_method_of_a_library_that_was_replaced_is_in_the_appearance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced method of a library's class is in the appearance; the class itself is represented by its name."""
    encoder = torch.utils.data.SequentialSampler([])
    before = appearance_of(encoder)
    monkeypatch.setattr(torch.utils.data.SequentialSampler, "__iter__", lambda self: iter([]))
    assert appearance_of(encoder) != before


def test_a_model_has_one_fingerprint_wherever_it_is_held() -> None:
    """The fingerprint contains the path of a model only if there are several."""
    one, other = layer(1.0), layer(2.0)
    assert {weights_fingerprint(each) for each in (one, Holder(network=one), Holder(inner=[one]))} == {
        weights_fingerprint(one)
    }
    assert weights_fingerprint(Holder(query=one, text=other)) != weights_fingerprint(Holder(query=other, text=one))


def test_what_an_encoder_counts_is_not_in_its_description() -> None:
    """Counters and other attributes that are not models do not change a description; cycles end."""
    encoder = Holder(network=layer(1.0), calls=0, log=[])
    encoder.itself = encoder
    before = describe_encoder(encoder)
    encoder.calls, encoder.log = 7, ["a", "b"]
    assert describe_encoder(encoder) == before


def test_two_classes_of_one_name_in_two_modules_are_two() -> None:
    """The name of a class contains its module."""
    made = []
    for name in ("first", "second"):
        module = types.ModuleType(name)
        exec("class Enc: pass", module.__dict__)
        made.append(describe_encoder(module.Enc()))
    assert made == [{"class": "first:Enc"}, {"class": "second:Enc"}]


def test_a_script_and_the_same_module_imported_have_one_name(tmp_path: Path) -> None:
    """A class in a script has the same name when the script is imported."""
    (tmp_path / "bench.py").write_text(
        "from cas_cache.models.names import class_name\nclass Enc: pass\nprint(class_name(Enc))\n"
    )
    runs = [["bench.py"], ["-m", "bench"], ["-c", "import bench"]]
    done = [
        subprocess.run([sys.executable, *run], cwd=tmp_path, capture_output=True, text=True, check=True) for run in runs
    ]
    assert [run.stdout.strip() for run in done] == ["bench:Enc"] * 3


def test_importing_the_package_imports_no_torch() -> None:
    """Importing the package does not import torch."""
    code = "import sys, cas_cache.models; print({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_object_without_models_has_no_fingerprint() -> None:
    """An object without weights has no fingerprint."""
    with pytest.raises(TypeError, match="revision="):
        weights_fingerprint(object())


def test_a_counter_that_a_replaced_method_reaches_is_not_the_model() -> None:
    """A method that counts its calls in a captured object or variable is described without the count."""

    class Counter:
        seen = 0

        def __init__(self) -> None:
            self.seen = 0

    module, counter, calls = torch.nn.Linear(2, 2), Counter(), 0
    forward = module.forward

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        counter.seen += 1
        return forward(*args)

    module.forward = counted
    before = weights_fingerprint(module)
    module(torch.ones(1, 2))
    assert (calls, counter.seen) == (1, 1)
    assert weights_fingerprint(module) == before


def clocked(latest: float, scale: float = 1.0) -> Any:
    """Return a function that stores the time of its latest call, like a rate limit of mteb's service classes."""

    def encode(inputs: Any) -> Any:
        nonlocal latest
        latest += 1.0
        return inputs * scale

    return encode


def test_a_number_that_a_function_assigns_itself_is_not_the_encoder() -> None:
    """A variable that a function writes is not described, whatever its name; one that it only reads is."""
    module = torch.nn.Linear(2, 2)
    seen = []
    for latest, scale in ((0.0, 1.0), (5.0, 1.0), (0.0, 2.0)):
        module.forward = clocked(latest, scale)
        seen.append((appearance_of(Holder(embed=module.forward)), weights_fingerprint(module)))
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0]
    assert seen[0][1] != seen[2][1]


def test_an_object_that_a_function_assigns_itself_counts() -> None:
    """A model that is loaded at the first call into a captured variable is part of the encoder."""
    found = None

    def encode(inputs: Any) -> Any:
        nonlocal found
        found = found or [2.0]
        return inputs * found[0]

    before = appearance_of(Holder(embed=encode))
    assert encode(1.0) == 2.0
    assert appearance_of(Holder(embed=encode)) != before
