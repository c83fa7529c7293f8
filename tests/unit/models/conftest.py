"""Tests of the description of models: offline, and left out where sentence-transformers is not installed."""

import importlib.util
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads this once

collect_ignore_glob = [] if importlib.util.find_spec("sentence_transformers") else ["test_models_*.py"]
