"""Every error of the package survives the way to another process, with its attributes."""

import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import cas_cache
from cas_cache.errors import CasCacheError, DamagedPack, SelfCheckFailed, UntrustedPack
from storages import SPEC

EXAMPLES: dict[str, object] = {"spec": SPEC, "rows": (3, 5), "packs": ("a" * 40,), "places": ("params['token']",)}


def classes(base: type[CasCacheError] = CasCacheError) -> Iterator[type[CasCacheError]]:
    """Yield the whole tree of errors, of all modules that can be imported without extras."""
    yield base
    for child in base.__subclasses__():
        yield from classes(child)


def _tree() -> list[type[CasCacheError]]:
    for module in pkgutil.walk_packages(cas_cache.__path__, "cas_cache."):
        if module.name.startswith("cas_cache.mteb") or module.name.endswith("__main__"):
            continue
        importlib.import_module(module.name)
    return [kind for kind in dict.fromkeys(classes()) if kind.__module__.startswith("cas_cache")]


def example(kind: type[CasCacheError]) -> CasCacheError:
    """Return an error whose every keyword argument has a value of its own."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    named = [it.name for it in parameters if it.kind is it.KEYWORD_ONLY]
    return kind("What happened. What to do.", **{name: EXAMPLES.get(name, f"the {name}") for name in named})


def facts(error: BaseException) -> tuple[Any, ...]:
    return type(error), str(error), error.args, vars(error)


def _same(error: CasCacheError) -> CasCacheError:
    return error


def _fail(kind: type[CasCacheError]) -> None:
    raise example(kind)


def test_the_tree_is_walked() -> None:
    """Among them are those that did not unpickle."""
    assert {SelfCheckFailed, DamagedPack, UntrustedPack} <= set(_tree())
    assert len(_tree()) > 30


@pytest.mark.parametrize("kind", _tree(), ids=lambda kind: kind.__name__)
def test_an_error_is_copied_whole(kind: type[CasCacheError]) -> None:
    """By pickle in each protocol, copy and deepcopy: class, message, arguments and attributes."""
    error = example(kind)
    error.add_note("seen in shard 7")
    copies = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for again in (*copies, copy.copy(error), copy.deepcopy(error)):
        assert again is not error
        assert facts(again) == facts(error)
        assert again.__notes__ == ["seen in shard 7"]


def test_an_error_without_a_message() -> None:
    """Its text is the name of its class, before and after."""
    assert str(pickle.loads(pickle.dumps(CasCacheError()))) == "CasCacheError"


def test_an_error_of_a_user_s_own_class() -> None:
    """A constructor with other arguments is not called again."""
    error = _Own("shard", 7)
    assert facts(pickle.loads(pickle.dumps(error))) == facts(error)


class _Own(CasCacheError):
    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")
        self.number = number


@pytest.mark.verify
def test_errors_cross_a_process_pool() -> None:
    """As arguments, results and what a worker raises; one that does not unpickle makes the pool wait forever."""
    kinds = [kind for kind in _tree() if vars(example(kind))]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for kind in kinds:
            error = example(kind)
            assert facts(pool.apply_async(_same, (error,)).get(timeout=60)) == facts(error)
            with pytest.raises(kind) as raised:
                pool.apply_async(_fail, (kind,)).get(timeout=60)
            assert facts(raised.value) == facts(error)
