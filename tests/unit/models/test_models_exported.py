"""Models of sentence-transformers that OpenVINO and ONNX Runtime run are described by the loaded file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from installed_releases import packages, run
from library_releases import RELEASES
from paths import SUPPORT

pytestmark = pytest.mark.environments

ENGINES = ("optimum==2.3.0", "optimum-intel==2.2.0", "optimum-onnx==0.1.0", "openvino", "openvino-telemetry",
           "onnxruntime", "onnx", "flatbuffers", "protobuf", "ml_dtypes")  # fmt: skip
"""optimum-intel 2.2 and optimum-onnx 0.1 cannot be imported with transformers 5, so an older release goes with them."""

SCRIPT = str(SUPPORT / "exported_models.py")

if TYPE_CHECKING:
    Seen = dict[str, list[Any]]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Seen]:
    """Return the output of two processes for the same files."""
    folder = tmp_path_factory.mktemp("exported")
    installed = packages(folder / "packages", *RELEASES["4.57 and 5.2"], *ENGINES)
    (folder / "model").mkdir()
    first, second = (run([installed], SCRIPT, str(folder / "model")) for _ in range(2))
    return json.loads(first.splitlines()[-1]), json.loads(second.splitlines()[-1])


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_two_files_of_one_repository_are_two_models(engine: str, two_processes: tuple[Seen, Seen], figure: Any) -> None:
    """Files with other vectors have other identities and fingerprints; without the file they would be equal."""
    one, other, cosine = two_processes[0][engine]
    figure(f"cosine of what would be served, in thousandths: file of {engine}", round(1000 * cosine))
    assert cosine < 0.99
    assert one["identity"] != other["identity"]
    assert one["fingerprint"] != other["fingerprint"]
    assert one["blind"] == other["blind"]


def test_another_process_sees_the_same(two_processes: tuple[Seen, Seen]) -> None:
    """A file has the same description in every process."""
    assert two_processes[0] == two_processes[1]
