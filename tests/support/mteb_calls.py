"""Texts of one task, and the arguments with which mteb calls an encoder."""

from mteb_tasks import metadata

TEXTS = [f"topic{i % 7}" for i in range(20)]

CALL = {"task_metadata": metadata("A"), "hf_split": "test", "hf_subset": "default"}
