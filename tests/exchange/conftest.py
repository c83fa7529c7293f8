"""Tests of import and export: offline, and left out where mteb, whose real caches they use, is not installed."""

import importlib.util
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads this once

collect_ignore_glob = [] if importlib.util.find_spec("mteb") else ["test_*.py"]
