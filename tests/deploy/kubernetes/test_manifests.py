"""The manifests against the schemas of Kubernetes and the operator, our parsers, the stack on AWS."""

from __future__ import annotations

import re
import subprocess
import sys

import jsonschema
import pytest
from kubernetes_validate.utils import validate

from fibflow.deploy.kubernetes import fill
from fibflow.io.alerts import link
from fibflow.io.kinesis.address import KinesisAddress
from fibflow.io.redisaddress import split_password
from fibflow.pipelines import daily, exporter, ingest, jobs, news, notify, stream
from fibflow.runners.services import flinkhome
from fibflow.serving.__main__ import parser as serving_parser
from fibflow.tests.deploy.aws import stacks
from fibflow.tests.deploy.kubernetes import manifests
from fibflow.tests.deploy.kubernetes.manifests import VALUES, arguments_of, documents, flink, of_kind, pods

PARSERS = {
    "fibflow.pipelines.daily": daily.parser,
    "fibflow.pipelines.exporter": exporter.parser,
    "fibflow.pipelines.ingest": ingest.parser,
    "fibflow.pipelines.jobs": jobs.parser,
    "fibflow.pipelines.news": news.parser,
    "fibflow.pipelines.notify": notify.parser,
    "fibflow.pipelines.stream": stream.parser,
    "fibflow.serving": serving_parser,
}
WORKER_POOL = "fibflow.runners.services.worker_pool"
LAKE = f"s3://{VALUES['NAME']}-lake-{VALUES['ACCOUNT']}"
#: Secrets that the stack makes, as the manifests name them, with their one key each.
SECRETS = {
    "vendor-key": "MASSIVE_API_KEY",
    "key-pepper": "FIBFLOW_KEY_PEPPER",
    "database-password": "PGPASSWORD",
    "redis-url": "REDIS_URL",
    "redis-password": "REDIS_PASSWORD",
}
NOT_ASKED = {"daily", "news", "submit", "stop", "resume"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    return manifests.crd(tmp_path_factory.mktemp("crd"))


@pytest.mark.parametrize("release", manifests.KUBERNETES)
def test_every_manifest_fits_the_schemas_of_kubernetes(release):
    checked = 0
    for document in documents():
        if document["kind"] != "FlinkDeployment":
            validate(document, release, strict=True)
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize("release", manifests.KUBERNETES)
def test_the_pods_of_flink_fit_the_schemas_too(release):
    made = [pod for pod in pods() if pod.kind == "FlinkDeployment"]
    assert [pod.name for pod in made] == ["flink-jobManager", "flink-taskManager"]
    for pod in made:
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **pod.metadata},
            "spec": pod.spec,
        }
        validate(document, release, strict=True)


def test_the_flink_deployment_fits_the_operators_own_schema(schema):
    found = jsonschema.Draft202012Validator(schema["properties"]["spec"]).iter_errors(flink()["spec"])
    assert [f"{list(error.path)}: {error.message}" for error in found] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("mode",), "neither"),
        (("taskManager", "replicas"), "many"),
        (("podTemplate", "spec", "securitycontext"), {}),
        (("flinkVersion",), "v9_9"),
    ],
)
def test_the_schema_refuses_what_the_operator_would(schema, path, value):
    broken = flink()
    place = broken["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not jsonschema.Draft202012Validator(schema["properties"]["spec"]).is_valid(broken["spec"])


def test_no_container_is_root_or_may_become_it():
    for pod in pods():
        of_pod = pod.spec["securityContext"]
        assert of_pod["runAsNonRoot"] is True
        assert (of_pod["runAsUser"], of_pod["runAsGroup"], of_pod["fsGroup"]) == (10001, 10001, 10001)
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod.containers():
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (pod.name, container["name"])
            assert "/tmp" in {each["mountPath"] for each in container["volumeMounts"]}


def test_every_container_says_what_it_needs_and_is_asked_how_it_is():
    for pod in pods():
        for container in pod.containers():
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"])
            assert resources["limits"]["memory"] == resources["requests"]["memory"]
            if "initContainers" in pod.spec and container in pod.spec["initContainers"]:
                assert "startupProbe" in container
            elif pod.name not in NOT_ASKED:
                assert "livenessProbe" in container, (pod.name, container["name"])
                assert "readinessProbe" in container or container["name"] == "flink-main-container"


def test_each_pod_mounts_volumes_that_it_has():
    claims = {
        each["metadata"]["name"]: each["spec"].get("volumeClaimTemplates", ())
        for each in documents()
        if each["kind"] == "StatefulSet"
    }
    for pod in pods():
        has = {each["name"] for each in pod.spec.get("volumes", ())}
        has |= {each["metadata"]["name"] for each in claims.get(pod.name, ())}
        used = {each["name"] for container in pod.containers() for each in container["volumeMounts"]}
        assert used == has


def test_the_arguments_of_each_command_are_ones_that_it_takes():
    seen = set()
    for pod in pods():
        for container in pod.containers():
            if ":flink-" in container["image"]:
                continue
            module, *arguments = arguments_of(container)
            seen.add(module)
            if module == WORKER_POOL:
                assert arguments == ["--port", "50000"]
                continue
            _, left = PARSERS[module]().parse_known_args(arguments)
            assert left == [] or module == "fibflow.pipelines.jobs"
            if left:
                # What jobs hands on to stream, which demands these besides.
                more = ["--source", "kinesis://x", "--bars-from", "trades", "--lake", LAKE]
                stream.parser().parse_args([*left, *more])
    assert seen == {*PARSERS, WORKER_POOL}


def test_what_runs_on_kubernetes_is_told_what_it_is_told_on_ecs():
    """The same flags as in the task definitions, whatever the values."""
    for _, _, resource in stacks.resources("AWS::ECS::TaskDefinition"):
        (container,) = resource["Properties"]["ContainerDefinitions"]
        (pod,) = [each for each in pods() if each.name == container["Name"]]
        (ours,) = pod.containers()
        flags = [each for each in container["Command"] if isinstance(each, str) and each.startswith("--")]
        assert [each for each in ours["args"] if each.startswith("--")] == flags
        assert ours["args"][0] == container["Command"][0]
        wanted = {each["Name"] for each in (*container["Environment"], *container.get("Secrets", ()))}
        if container["Name"] == "news":
            wanted.discard("REDIS_URL")
        assert {each["name"] for each in ours["env"]} == wanted
        assert container["User"] == str(pod.spec["securityContext"]["runAsUser"])
        assert pod.spec["terminationGracePeriodSeconds"] == container["StopTimeout"]
        kind = container["Image"]["Fn::Sub"][0].partition(":")[2].partition("-")[0]
        assert ours["image"].endswith(f"/{VALUES['NAME']}:{kind}-{VALUES['VERSION']}")


def test_names_of_what_lies_on_aws_are_the_stacks():
    name, account, region = VALUES["NAME"], VALUES["ACCOUNT"], VALUES["REGION"]
    data = stacks.template("data")
    made = {logical: resource["Properties"] for logical, resource in data["Resources"].items()}

    def called(text: object) -> str:
        text = text["Fn::Sub"] if isinstance(text, dict) and "Fn::Sub" in text else text
        text = name if text == {"Ref": "Name"} else str(text)
        return text.replace("${Name}", name).replace("${AWS::AccountId}", account)

    assert f"s3://{called(made['Lake']['BucketName'])}" == LAKE
    text = "".join(fill.filled(each, VALUES) for each in manifests.FILES)
    folders = {
        output: data["Outputs"][output]["Value"]["Fn::Sub"].replace("${Lake}", LAKE.removeprefix("s3://"))
        for output in ("LakeUri", "RawUri", "CheckpointsUri", "SavepointsUri")
    }
    assert set(re.findall(r"s3://[^\s\"]+", text)) == {*folders.values(), f"{folders['CheckpointsUri']}/ha"}
    assert set(re.findall(r"kinesis://([\w-]+)", text)) == {called(made["Ticks"]["Name"])}
    (submit,) = documents("jobs/submit.yaml")
    arguments = arguments_of(submit["spec"]["template"]["spec"]["containers"][0])
    args, _ = stream.parser().parse_known_args(arguments[1:])
    assert KinesisAddress.parse(args.source).stream == called(made["Ticks"]["Name"])
    assert link.password(args.alerts) is None
    assert split_password(args.redis) == (f"rediss://{VALUES['REDIS_HOST']}:6379/0", None)
    assert args.dynamodb == called(made["PriceTable"]["TableName"])
    assert args.dynamodb_ticks == called(made["TickTable"]["TableName"])
    assert set(re.findall(r"arn:aws:sns:[^\s\"]+", text)) == {
        f"arn:aws:sns:{region}:{account}:{called(made['Operations']['TopicName'])}"
    }
    repository = f"{account}.dkr.ecr.{region}.amazonaws.com/{called(made['Images']['RepositoryName'])}"
    kinds = ("pipelines", "serving", "flink")
    images = {container["image"] for pod in pods() for container in pod.containers()}
    assert images == {f"{repository}:{kind}-{VALUES['VERSION']}" for kind in kinds}
    secrets = {
        called(each["Name"]).partition("/")[2]: each.get("Description")
        for logical, each in made.items()
        if data["Resources"][logical]["Type"] == "AWS::SecretsManager::Secret"
    }
    assert {secret: secrets[secret] for secret in SECRETS} == SECRETS


def test_accounts_are_those_of_the_roles_and_only_flink_gets_a_token():
    roles = {
        resource["Properties"]["RoleName"]["Fn::Sub"].removeprefix("${Name}-")
        for _, _, resource in stacks.resources("AWS::IAM::Role")
        if isinstance(resource["Properties"].get("RoleName"), dict)
    }
    accounts = of_kind("ServiceAccount")
    assert set(accounts) == {pod.spec["serviceAccountName"] for pod in pods()}
    for account, made in accounts.items():
        assert account in roles
        role = f"arn:aws:iam::{VALUES['ACCOUNT']}:role/{VALUES['NAME']}-{account}"
        assert made["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": role}
        assert made["automountServiceAccountToken"] is False
    for pod in pods():
        assert pod.spec["automountServiceAccountToken"] is (pod.kind == "FlinkDeployment")


def test_secrets_are_named_and_none_is_made():
    assert of_kind("Secret") == {}
    asked = set()
    for pod in pods():
        for container in pod.containers():
            for each in container.get("env", ()):
                if "valueFrom" in each:
                    key = each["valueFrom"]["secretKeyRef"]
                    asked.add((key["name"], key["key"]))
                    assert each["name"] == key["key"]
    assert asked == set(SECRETS.items())


def test_flink_is_set_up_as_the_local_stack_is(tmp_path):
    """It differs in what is of the place: addresses, folders, sizes, how a job starts again."""
    ours, local = flink()["spec"]["flinkConfiguration"], flinkhome.Cluster(tmp_path, 1, 2).settings()
    same = {
        name
        for name in local
        if name.startswith(("state.", "classloader.", "execution.", "heartbeat."))
        and not name.endswith(".dir")
    }
    assert {name: ours[name] for name in same} == {name: str(local[name]) for name in same}
    assert ours["high-availability.type"] == "kubernetes"
    assert ours["taskmanager.numberOfTaskSlots"] == VALUES["LANES"]


def test_budgets_and_policies_choose_pods_that_there_are():
    labels = [pod.metadata["labels"].items() for pod in pods()]
    for kind in ("PodDisruptionBudget", "NetworkPolicy", "Service", "Deployment", "StatefulSet"):
        for name, document in of_kind(kind).items():
            spec = document["spec"]
            chosen = spec.get("podSelector", spec.get("selector", {}))
            chosen = chosen if kind == "Service" else chosen.get("matchLabels", {})
            assert any(chosen.items() <= each for each in labels), (kind, name)
    assert set(of_kind("PodDisruptionBudget")) == {"flink", "serving", "notify"}


def test_the_daily_run_is_at_the_stacks_hour_and_not_made_by_default():
    (cron,) = documents("daily.yaml")
    at = stacks.template("daily")["Parameters"]["At"]["Default"]
    minute, hour, *_ = re.findall(r"[\w*?-]+", at.removeprefix("cron"))
    assert cron["spec"]["schedule"] == f"{minute} {hour} * * MON-FRI"
    assert cron["spec"]["timeZone"] == "America/New_York"
    assert "daily.yaml" not in fill.ALWAYS


def test_the_job_server_listens_where_the_job_is_submitted():
    for name in ("jobs/submit.yaml", "jobs/resume.yaml", "jobs/recover.yaml"):
        (job,) = documents(name)
        (server,) = job["spec"]["template"]["spec"]["initContainers"]
        assert server["restartPolicy"] == "Always"
        kind, master, port = server["args"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        given = dict(zip(container["args"], container["args"][1:], strict=False))
        assert (kind, given["--job-endpoint"]) == ("jobserver", f"localhost:{port}")
        assert given["--worker-pool"] == "localhost:50000"
        asked = {each["name"]: each.get("value") for each in container["env"]}["FLINK_REST_URL"]
        assert master == asked == f"{flink()['metadata']['name']}-rest:8081"
        assert job["spec"]["backoffLimit"] == 0


def test_the_pools_port_is_the_one_that_is_asked():
    (pod,) = [each for each in pods() if each.name == "flink-taskManager"]
    (pool,) = [each for each in pod.containers() if each["name"] == "workers"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert str(("127.0.0.1", 50000)) in pool[probe]["exec"]["command"][2]


def test_flink_is_of_the_release_of_its_image():
    line = flinkhome.VERSION.rpartition(".")[0]
    assert flink()["spec"]["flinkVersion"] == f"v{line.replace('.', '_')}"


class TestFilling:
    def test_a_missing_value_is_named(self, tmp_path):
        path = tmp_path / "some.env"
        path.write_text("NAME=fibflow\n")
        with pytest.raises(fill.FillError, match=r"accounts.yaml needs ACCOUNT: put it"):
            fill.filled("accounts.yaml", fill.read_values(path))

    @pytest.mark.parametrize("line", ["NAME", "NAME=", "NAME=a b", 'NAME="a"', "NAME=a\\nb"])
    def test_a_line_that_is_none_is_refused(self, tmp_path, line):
        path = tmp_path / "some.env"
        path.write_text(f"# what it is\n\n{line}\n")
        with pytest.raises(fill.FillError, match="line 3: write NAME=value"):
            fill.read_values(path)

    @pytest.mark.parametrize("name", ["none.yaml", "../aws/data.yaml", "values.env"])
    def test_only_manifests_are_filled(self, name):
        with pytest.raises(fill.FillError, match="there is no manifest"):
            fill.filled(name, VALUES)

    def test_no_value_is_for_nothing(self):
        text = "".join((fill.FOLDER / name).read_text() for name in manifests.FILES)
        assert set(re.findall(r"\$\{([A-Z_]+)\}", text)) == set(VALUES)

    def test_every_manifest_is_among_those_that_are_checked(self):
        there = {str(path.relative_to(fill.FOLDER)) for path in fill.FOLDER.rglob("*.yaml")}
        assert there == set(manifests.FILES)

    def test_the_command_prints_all_of_them(self):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fibflow.deploy.kubernetes", str(fill.FOLDER / "values.env")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "---\n".join(fill.filled(name, VALUES) for name in fill.ALWAYS)

    def test_the_command_says_what_is_wrong_in_a_line(self, tmp_path):
        command = [sys.executable, "-P", "-m", "fibflow.deploy.kubernetes", str(tmp_path / "none.env")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
