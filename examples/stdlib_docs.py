"""A real mteb retrieval task made on the spot from the docstrings of Python's standard library.

Purpose: give a real model something real to do where there is no network. The first line of a docstring is
the query, the rest of it is the document to find.

What it adds to mteb: a task whose data every Python installation already has, the same on every run of one
Python version, with documents and queries among it whose texts repeat.

What it never does: it opens no connection, imports none of the modules it reads (their source is parsed),
writes nothing, and leaves nothing to chance or to the order of a directory, a set, or `sys.path`.
"""

import ast
import functools
import inspect
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

MODULES = tuple(
    # One string, because the formatter gives each item of a tuple this long its own line.
    """
    __future__ _collections_abc _pydecimal _pyio _strptime abc argparse ast asyncio base64 bdb bisect bz2
    calendar cmd code codecs codeop collections concurrent configparser contextlib copy copyreg ctypes
    dataclasses datetime difflib dis doctest email enum fileinput fnmatch fractions ftplib functools getopt
    getpass graphlib gzip hashlib heapq hmac http imaplib importlib inspect ipaddress json linecache locale
    logging lzma mimetypes multiprocessing ntpath numbers operator optparse os pathlib pdb pickle pickletools
    pkgutil platform poplib posixpath pty py_compile queue random re rlcompleter runpy sched secrets
    selectors shelve shutil smtplib socket socketserver ssl statistics subprocess symtable sysconfig tarfile
    tempfile textwrap threading timeit tokenize trace traceback tracemalloc turtle typing unittest urllib
    uuid warnings weakref wsgiref xml xmlrpc zipfile
    """.split()  # noqa: SIM905
)
"""Modules that are read, all of them in Python 3.11, 3.12 and 3.13; a package stands for all its modules."""

N_DOCUMENTS = 2000
N_COPIED_DOCUMENTS = 40
N_QUERIES = 300
N_COPIED_QUERIES = 20
MAX_CHARACTERS = 300  # about 110,000 tokens in all: a small model encodes them on two cores in half a minute
MIN_QUERY_WORDS = 3

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# An example in a docstring may show a memory address; five digits leave constants such as 0xFFFF alone.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{5,}")


_T = TypeVar("_T")


class Document(NamedTuple):
    """One docstring: its first line apart from the rest."""

    title: str
    first_line: str
    text: str


class StdlibDocs(NamedTuple):
    """The whole data set: rows as mteb wants them, and for each query the documents that answer it."""

    corpus: list[dict[str, str]]
    queries: list[dict[str, str]]
    relevant_docs: dict[str, dict[str, int]]


def _sources(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the qualified name and the source file of a module, or of each module of a package, by name."""
    # Not importlib.util.find_spec: it would find a `json.py` in the working directory first.
    root = Path(sysconfig.get_path("stdlib"))
    if (root / f"{module}.py").is_file():
        yield module, root / f"{module}.py"
        return
    if not (root / module / "__init__.py").is_file():
        raise FileNotFoundError(f"Python {platform.python_version()} has no source of {module!r} in {root}")
    found = {}
    for path in (root / module).rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if "test" not in parts and "tests" not in parts:
            found[".".join(parts).removesuffix(".__init__")] = path
    yield from sorted(found.items())


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield the qualified name and the docstring of `node` and of all it defines, in source order."""
    if isinstance(node, (ast.Module, *_DEFINITIONS)):
        docstring = ast.get_docstring(node, clean=False)
        if docstring is not None:
            yield name, inspect.cleandoc(docstring)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # defines nothing, and is most of a tree
            continue
        yield from _docstrings(child, f"{name}.{child.name}" if isinstance(child, _DEFINITIONS) else name)


def _trim(text: str) -> str:
    """Cut `text` at the last space or line end that leaves it at most `MAX_CHARACTERS` long."""
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS + 1].rsplit(maxsplit=1)[0].rstrip()


@functools.cache
def read_documents() -> tuple[Document, ...]:
    """Read every usable docstring of `MODULES`, in the order of names and then of the source.

    A docstring is usable if there is text below its first line, if that text does not repeat the first line
    (the document would hold its own query), and if it shows no memory address.

    Returns:
        The documents; two may have one title and text, where a function is defined once per platform.
    """
    documents = []
    for module in sorted(MODULES):
        for name, path in _sources(module):
            for title, docstring in _docstrings(ast.parse(path.read_text(encoding="utf-8")), name):
                first_line, _, rest = (part.strip() for part in docstring.partition("\n"))
                text = _trim(rest)
                if first_line and text and first_line not in text and not _ADDRESS.search(docstring):
                    documents.append(Document(title, first_line, text))
    return tuple(documents)


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """Return `count` items at equal distances."""
    if len(items) < count:
        raise ValueError(f"{count} items are wanted and this Python's standard library gives {len(items)}")
    return [items[i * len(items) // count] for i in range(count)]


def _unique_ids(names: list[str]) -> list[str]:
    """Number the second and later uses of a name: `a, b, a` becomes `a, b, a#2`."""
    seen: Counter[str] = Counter()
    ids = []
    for name in names:
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return ids


def build() -> StdlibDocs:
    """Build the data set.

    Some texts repeat on purpose: 40 of the 2,000 documents and 20 of the 300 queries are second copies of
    another one, under another id. CPython 3.11.7 brings 1 more such document of its own (a function defined
    once per platform): 1,959 documents differ in title or text, 1,917 in text, and 280 queries in text.

    Returns:
        The corpus, the queries, and the relevant documents of each query, in one fixed order.
    """
    documents = _spread(read_documents(), N_DOCUMENTS - N_COPIED_DOCUMENTS)
    documents += _spread(documents, N_COPIED_DOCUMENTS)
    document_ids = _unique_ids([document.title for document in documents])

    answers: dict[str, dict[str, int]] = {}
    for document_id, document in zip(document_ids, documents, strict=True):
        answers.setdefault(document.first_line, {})[document_id] = 1
    askable = [line for line in answers if len(line.split()) >= MIN_QUERY_WORDS]
    queries = _spread(askable, N_QUERIES - N_COPIED_QUERIES)
    queries += _spread(queries, N_COPIED_QUERIES)
    query_ids = [f"q{number:03}" for number in range(len(queries))]

    return StdlibDocs(
        corpus=[
            {"id": document_id, "title": document.title, "text": document.text}
            for document_id, document in zip(document_ids, documents, strict=True)
        ],
        queries=[{"id": query_id, "text": text} for query_id, text in zip(query_ids, queries, strict=True)],
        relevant_docs={query_id: dict(answers[text]) for query_id, text in zip(query_ids, queries, strict=True)},
    )


class StdlibDocsRetrieval(AbsTaskRetrieval):  # type: ignore[misc]  # mteb ships no types
    """Find the docstring of the standard library that begins with the query.

    A document's title is a qualified name (`json.decoder.JSONDecoder.decode`), its text the docstring below
    the first line. Every document whose docstring has the query as its first line is relevant, so that the
    score does not depend on which of two equal documents comes first. `build` says how many texts repeat.
    """

    metadata = TaskMetadata(
        name="StdlibDocsRetrieval",
        description="Find the docstring of Python's standard library that begins with the query.",
        reference="https://docs.python.org/3/library/",
        # Not on the hub: load_data() makes it. The revision tells results of two Python versions apart.
        dataset={"path": "stdlib-docs", "revision": f"python-{platform.python_version()}"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=("1991-02-20", "2024-10-07"),
        domains=["Programming", "Written"],
        task_subtypes=["Code retrieval"],
        license="https://docs.python.org/3/license.html",
        annotations_creators="derived",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
    )

    data_loaded: bool = False

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Build the data set, unless it exists already.

        Args:
            num_proc: Ignored: there is nothing to do in parallel.
            **kwargs: Ignored; mteb passes its timer.
        """
        if self.data_loaded:
            return
        docs = build()
        split = {
            "corpus": Dataset.from_list(docs.corpus),
            "queries": Dataset.from_list(docs.queries),
            "relevant_docs": docs.relevant_docs,
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True
