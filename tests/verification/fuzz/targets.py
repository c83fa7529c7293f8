"""Every target by name."""

from fuzz import input_targets, mirror_targets, remote_targets

TARGETS = {**remote_targets.TARGETS, **mirror_targets.TARGETS, **input_targets.TARGETS}

EXAMPLES = {
    **{name: 50 for name in mirror_targets.TARGETS if name.startswith("mirror")},
    "pack": 30,
    "command line": 60,
    "saved index": 50,
    **dict.fromkeys(("marker", "listing", "imported", "configuration", "identity"), 150),
}
"""How many inputs hypothesis makes where not `USUAL`: these take milliseconds each, the others less."""

USUAL = 500
