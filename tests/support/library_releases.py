"""Releases of the libraries under which a model must have the same identity."""

from __future__ import annotations

SHARED = ("tokenizers==0.22.2", "datasets==4.0.0", "httpx", "httpcore", "h11", "anyio")

"""Further packages that the older releases need."""

RELEASES = {
    "4.57 and 5.2": ("transformers==4.57.6", "sentence-transformers==5.2.0", "huggingface-hub==0.36.2", *SHARED),
    "5.10 and 5.6": ("transformers==5.10.1", "sentence-transformers==5.6.0", "huggingface-hub<2", *SHARED),
}
