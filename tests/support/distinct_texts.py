"""How many distinct texts the example's task has: docstrings differ from one Python to the next."""

import stdlib_docs


def distinct_texts() -> int:
    """Return it as an encoder sees them: a document with its title before it, and queries."""
    docs = stdlib_docs.build()
    return len({f"{row['title']} {row['text']}".strip() for row in docs.corpus} | {row["text"] for row in docs.queries})
