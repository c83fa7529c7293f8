"""Print, as JSON, the namespace and description of checkpoints under the libraries that this process imports."""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.modules["torchcodec"] = None  # releases fail to import it where FFmpeg is not installed
warnings.simplefilter("ignore")

import sentence_transformers  # noqa: E402
import transformers  # noqa: E402

from cas_cache.identity import EncoderSpec  # noqa: E402
from cas_cache.models import describe, weights_fingerprint  # noqa: E402

found = {"releases": [transformers.__version__, sentence_transformers.__version__]}
for path in sys.argv[1:]:
    model = sentence_transformers.SentenceTransformer(path, device="cpu")
    seen = describe(model)
    spec = EncoderSpec(model="org/m", revision="abc1234", params=seen.identity())
    found[Path(path).name] = [spec.namespace, weights_fingerprint(model), seen.document]
print(json.dumps(found))
