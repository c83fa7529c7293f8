"""How far tests go that could go on for ever: CAS_CACHE_TEST_SCALE times as far as in CI, 1 by default."""

import os

SCALE = int(os.environ.get("CAS_CACHE_TEST_SCALE", "1"))
