"""docs/how-to/ci: the recipes do what the page says, and the page quotes the files that are run here."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import servers
from cas_cache import doctor
from cas_cache.doctor.policies import Role, grant, s3_policy
from cas_cache.storage import open_storage
from ci_recipes import FOLDER, PAGE, Ended, Machine, end, project, read, untracked
from policy_gateway import Gateway

TEXTS = "apple\npear\nplum\n"
NEW = TEXTS + "quince\n"
URL = "s3://team/emb"
POLICIES = sorted(Path(doctor.__file__).parent.glob("iam-*.json"))
NO_STEP_BUT = {"actions/checkout", "actions/setup-python", "actions/cache"}


# The page and its files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted([*FOLDER.iterdir(), *POLICIES]), ids=lambda path: path.name)
def test_the_page_quotes_the_file(path: Path) -> None:
    """What is read is what is tested."""
    language = {".yml": "yaml", ".json": "json"}[path.suffix]
    assert f"```{language}\n{path.read_text('utf-8')}```" in PAGE.read_text("utf-8"), f"put {path.name} into the page"


@pytest.mark.parametrize("role", list(Role))
def test_the_policies_are_the_doctors(role: Role) -> None:
    """The page quotes what the doctor prints; contract/test_doctor_servers.py shows that the policies are minimal."""
    assert f"```json\n{grant(URL, role)}\n```" in PAGE.read_text("utf-8")


def test_the_public_bucket_policy_is_the_readers_for_everybody() -> None:
    """Nothing but the principal differs."""
    policy = json.loads((FOLDER / "bucket-public-read.json").read_text("utf-8"))
    assert [statement.pop("Principal") for statement in policy["Statement"]] == ["*", "*"]
    assert policy == s3_policy(URL, Role.READER)


def test_the_google_lines_are_the_doctors() -> None:
    """The commands on the page are what the doctor prints."""
    for role in (Role.READER, Role.WRITER):
        assert grant("gs://team/emb", role).splitlines()[0] in PAGE.read_text("utf-8")


def test_only_main_gets_the_writers_role() -> None:
    """The writer's trust policy names one branch, without a pattern; both ask for the audience."""
    for name, subject in (("writer", "repo:ORG/REPO:ref:refs/heads/main"), ("reader", "repo:ORG/REPO:*")):
        (statement,) = json.loads((FOLDER / f"trust-{name}.json").read_text("utf-8"))["Statement"]
        conditions = statement["Condition"]
        asked = {key.partition(":")[2]: value for kind in conditions.values() for key, value in kind.items()}
        assert asked == {"aud": "sts.amazonaws.com", "sub": subject}
        assert ("StringLike" in conditions) == (name == "reader")


def test_no_lifecycle_rule_deletes_current_objects() -> None:
    """Packs are old by nature."""
    (rule,) = json.loads((FOLDER / "lifecycle.json").read_text("utf-8"))["Rules"]
    assert rule["Expiration"] == {"ExpiredObjectDeleteMarker": True}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("github-*.yml")))
def test_workflows_give_tokens_only_to_jobs_that_take_a_role(name: str) -> None:
    """A job has `id-token: write` when and only when it has a step that uses it; no workflow is pull_request_target."""
    workflow = read(name)
    assert "pull_request_target" not in workflow["on"]
    for job in workflow["jobs"].values():
        permissions = job.get("permissions", workflow["permissions"])
        used = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
        assert (permissions.get("id-token") == "write") == bool(used - NO_STEP_BUT)
        assert permissions["contents"] == "read"


# What is played --------------------------------------------------------------------------------------------------


class Recorder(Gateway):
    """A gateway that keeps whether requests were signed.

    Attributes:
        signed: For each request, whether it was.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.signed: list[bool] = []
        played = self.RequestHandlerClass

        class Handler(played):  # type: ignore[misc, valid-type]
            def parse_request(self) -> bool:
                parsed: bool = super().parse_request()
                if parsed:
                    self.server.signed.append("Authorization" in self.headers)
                return parsed

        self.RequestHandlerClass = Handler


class Team:
    """A bucket, the gateway before it, and machines that run jobs."""

    def __init__(self, url: str, gateway: Recorder, options: Mapping[str, Any], folder: Path) -> None:
        self.url, self.gateway, self.options, self.folder = url, gateway, options, folder
        self.roles: list[str] = []
        self.kept: dict[str, Path] = {}

    def there(self) -> set[str]:
        """Every name in the repository."""
        return {listed.path for listed in open_storage(self.url, self.options).list("")}

    def run(self, name: str, job: str, texts: str = TEXTS, *, event: str = "push", run_id: int = 1) -> Ended:
        """Run a job on a new machine; the gateway enforces the policy of whatever role the job takes."""
        folder = self.folder / f"machine-{len(list(self.folder.iterdir()))}"
        machine = Machine(
            home=folder,
            source=project(folder / "repository", texts),
            stand_ins={"aws-actions/configure-aws-credentials": self._take_role, "actions/cache": self._restore},
            replaced={URL: self.url},
            expressions={
                "github.run_id": run_id,
                "github.event_name == 'pull_request'": event == "pull_request",
                "github.event_name == 'push' && github.ref == 'refs/heads/main'": event == "push",
            },
        )
        self.gateway.policy, self.gateway.refused, self.gateway.signed = s3_policy(self.url, Role.READER), [], []
        # No credentials; an endpoint, which is Amazon's own elsewhere.
        machine.always["AWS_ENDPOINT_URL"] = self.gateway.endpoint
        ended = machine.run(name, job)
        assert not ended.steps or untracked(folder / "work") == []
        for key, path in self.kept.items():
            if path.is_relative_to(folder):  # the job's end, when the action saves
                self.kept[key] = Path(shutil.copytree(path, self.folder / f"saved-{key}"))
        return ended

    def _take_role(self, work: Path, given: Mapping[str, str]) -> dict[str, str]:
        role = Role(given["role-to-assume"].rpartition("embeddings-")[2])
        self.roles.append(role)
        self.gateway.policy = s3_policy(self.url, role)
        return {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": given["aws-region"]}

    def _restore(self, work: Path, given: Mapping[str, str]) -> dict[str, str]:
        if given["key"] not in self.kept:
            newest = [key for key in self.kept if key.startswith(given["restore-keys"].strip())]
            if newest:
                shutil.copytree(self.kept[newest[-1]], work / given["path"])
            self.kept[given["key"]] = work / given["path"]
        return {}


@pytest.fixture
def team(localstack: Any, s3_remote: Any, tmp_path: Path) -> Iterator[Team]:
    """An empty bucket behind a gateway."""
    with Recorder(s3_remote.storage_options["endpoint_url"]) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        yield Team(s3_remote.url, gateway, s3_remote.storage_options, tmp_path)
        gateway.shutdown()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.verify
def test_an_s3_server_in_the_job(localstack: Any, tmp_path: Path) -> None:
    """The Docker-free workflow starts a server, fills a bucket and evaluates from it."""
    cached: list[Mapping[str, str]] = []
    machine = Machine(
        tmp_path / "m",
        project(tmp_path / "repository", TEXTS),
        replaced={"4566": free_port()},
        stand_ins={"actions/cache": lambda work, given: cached.append(given) or {}},
        expressions={
            "runner.os": "Linux",
            "steps.python.outputs.python-version": "3.11.7",
            "hashFiles('localstack/run.py')": "ab",
        },
    )
    ended = machine.run("github-localstack.yml", "tests")
    assert ended.code == 0, ended.out
    assert ended.out.count("1 passed") == 2
    assert list((tmp_path / "m" / "work" / ".cas-cache" / "another-machine").glob("*/namespaces/*"))
    assert untracked(tmp_path / "m" / "work") == []
    assert cached == [{"path": ".localstack", "key": "localstack-Linux-3.11.7-ab"}]


@pytest.mark.verify
def test_an_s3_server_as_a_service(localstack: Any, tmp_path: Path) -> None:
    """The service's workflow makes the bucket by one request. The session's LocalStack stands for the container."""
    service = read("github-localstack-service.yml")["jobs"]["tests"]["services"]["s3"]
    compose = (FOLDER.parents[2] / "localstack" / "docker-compose.yml").read_text("utf-8")
    assert f"image: {service['image']}\n" in compose
    bucket = f"ci-{tmp_path.name.replace('_', '-')}-{localstack.port}"[:60]
    here = {"4566": str(localstack.port), "s3://team/": f"s3://{bucket}/", "_URL/team": f"_URL/{bucket}"}
    machine = Machine(tmp_path / "m", project(tmp_path / "repository", TEXTS), replaced=here)
    ended = machine.run("github-localstack-service.yml", "tests")
    assert ended.code == 0, ended.out
    assert ended.out.count("1 passed") == 2
    assert untracked(tmp_path / "m" / "work") == []


@pytest.mark.verify
def test_a_miss_fails_the_build(team: Team) -> None:
    """With everything cached the job passes; a new text fails it, with the page's words; nothing is written."""
    assert team.run("github-forks.yml", "write").code == 0
    before = team.there()
    passed = team.run("github-read-only.yml", "quality", run_id=1)
    assert passed.code == 0, passed.out
    assert "pulled 1 pack, 3 rows" in passed.out
    failed = team.run("github-read-only.yml", "quality", NEW, run_id=2)
    assert failed.code == 1
    assert failed.steps[-1] == "python -m pytest"
    assert "pulled 0 packs" in failed.out, "the mirror of the last run was not there"
    (line,) = {line for line in failed.out.splitlines() if line.startswith("E ") and "only_cached" in line}
    assert f"```text\n{line.removeprefix('E ').strip()}\n```" in PAGE.read_text("utf-8"), line
    assert team.gateway.refused == []
    assert team.there() == before
    assert team.roles == ["writer", "reader", "reader"]
    assert team.run("github-forks.yml", "write", NEW).code == 0
    assert team.run("github-read-only.yml", "quality", NEW, run_id=3).code == 0


@pytest.mark.verify
def test_pull_requests_read_and_main_writes(team: Team) -> None:
    """A fork's job has no role: it reads unsigned, encodes what is new, and leaves the bucket as it was."""
    assert team.run("github-forks.yml", "read", event="push").steps == []
    assert team.run("github-forks.yml", "write", event="pull_request").steps == []
    assert team.run("github-forks.yml", "write").code == 0
    assert all(team.gateway.signed)
    before = team.there()
    ended = team.run("github-forks.yml", "read", NEW, event="pull_request")
    assert ended.code == 0, ended.out
    assert team.gateway.signed
    assert not any(team.gateway.signed)
    assert team.gateway.refused == []
    assert team.there() == before
    assert team.roles == ["writer"]


@pytest.mark.verify
def test_a_push_that_is_refused_fails_the_job(team: Team) -> None:
    """The writer's job with a reader's role does not pass."""
    team._take_role = lambda work, given: Team._take_role(team, work, {**given, "role-to-assume": "embeddings-reader"})
    ended = team.run("github-forks.yml", "write")
    assert ended.code != 0
    assert "s3:PutObject" in {action for action, _ in team.gateway.refused}


@pytest.mark.verify
def test_gitlab(team: Team) -> None:
    """The script of the job passes, and fails with a new text; it finds the token's file where the SDK looks."""
    assert team.run("github-forks.yml", "write").code == 0
    job = read("gitlab-ci.yml")["quality"]
    for texts, code in ((TEXTS, 0), (NEW, 1)):
        folder = team.folder / f"gitlab-{code}"
        machine = Machine(folder, team.folder, replaced={URL: team.url, "/tmp/aws-id-token": str(folder / "token")})
        project(folder / "work", texts)
        environment = {**job["variables"], "AWS_ID_TOKEN": "header.claims.signature"}
        # An access key goes before the token: the token service is not here.
        environment |= {
            "AWS_ENDPOINT_URL": team.gateway.endpoint,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        team.gateway.policy = s3_policy(team.url, Role.READER)
        ended, groups = Ended(), []
        try:
            assert machine.shell("\n".join(job["script"]), environment, ended, groups) == code, ended.out
            assert untracked(folder / "work") == []
        finally:
            end(groups)
        assert (folder / "token").read_text("utf-8") == "header.claims.signature\n"


@pytest.mark.verify
def test_google(tmp_path: Path) -> None:
    """Google's workflow, with what gcsfs is told by `google-github-actions/auth` replaced by the emulator's."""
    (tmp_path / "server").mkdir()
    with servers.google(tmp_path / "server") as place:
        emulator = {
            "STORAGE_EMULATOR_HOST": place.options["endpoint_url"],
            "FSSPEC_GS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        codes = []
        for name, texts, cached in (("fill", TEXTS, "0"), ("read", TEXTS, "1"), ("new", NEW, "1")):
            machine = Machine(
                tmp_path / name,
                project(tmp_path / name / "repository", texts),
                stand_ins={"google-github-actions/auth": lambda work, given: {}},
                always=dict(emulator),
            )
            if cached == "0":
                machine.given = {"CAS_CACHE_ONLY_CACHED": "0", "CAS_CACHE_READ_ONLY": "0"}
                machine.left_out = ("cas-cache pull",)
            ended = machine.run("github-gcs.yml", "quality")
            codes.append(ended.code)
        assert codes == [0, 0, 1], ended.out
        assert "CacheMiss" in ended.out
