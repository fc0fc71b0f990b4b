"""CloudWatch's alarms: on the resources of the stack, told to those on call; when they fire and do not."""

from __future__ import annotations

import itertools
import re

import pytest
from moto import mock_aws

from fibflow.io.aws import AwsConfig
from fibflow.tests.deploy.aws import stacks
from fibflow.tests.deploy.aws.journal import ACCOUNT, REGION
from fibflow.tests.deploy.cloudwatch import ALARM, OK, UNKNOWN, Resolver, metrics, states

AGE = "GetRecords.IteratorAgeMilliseconds"
ANSWERS = ("RequestCount", "HTTPCode_Target_5XX_Count", "HTTPCode_ELB_5XX_Count")
TASKS = ("RunningTaskCount", "DesiredTaskCount")
THROTTLED = ("ReadThrottleEvents", "WriteThrottleEvents", "ConsumedWriteCapacityUnits")


@pytest.fixture(scope="module")
def aws():
    """An emulator in this process with the stack of a team."""
    with mock_aws():
        found = AwsConfig(REGION, None, "operator", "test")
        stacks.deploy(found, Size="team")
        yield found


@pytest.fixture(scope="module")
def exports(aws):
    """What the stacks export."""
    told = aws.boto3_client("cloudformation").list_exports()["Exports"]
    return {each["Name"]: each["Value"] for each in told}


def resolved(exports, size="team"):
    """The alarms of a size, without functions."""
    given = {"Name": "fibflow", "Size": size}
    pseudo = {"AWS::Region": REGION, "AWS::AccountId": ACCOUNT}
    return Resolver(stacks.template("alarms"), given, exports, pseudo).alarms()


@pytest.fixture(scope="module")
def alarms(aws, exports):
    """All alarms by their short names, as CloudWatch has them. The emulator's CloudFormation makes none."""
    client = aws.boto3_client("cloudwatch")
    for each in resolved(exports):
        client.put_metric_alarm(**each)
    told = client.describe_alarms()["MetricAlarms"]
    return {each["AlarmName"].removeprefix("fibflow-"): each for each in told}


def test_an_alarm_tells_those_on_call_when_it_begins_and_ends_and_says_what_to_do(alarms, exports):
    assert len(alarms) == len(stacks.template("alarms")["Resources"]) - 1
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [exports["fibflow-operations"]], name
        assert alarm["ActionsEnabled"], name
        assert re.fullmatch(
            r"(page|ticket): [A-Z].+\. See docs/runbooks/[\w-]+\.md\.", alarm["AlarmDescription"]
        ), name
        assert 0 < alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"], name


def test_alarms_may_publish_to_that_topic():
    document = stacks.template("data")["Resources"]
    for statements in (
        document["TopicPolicy"]["Properties"]["PolicyDocument"]["Statement"],
        document["TopicKey"]["Properties"]["KeyPolicy"]["Statement"],
    ):
        (statement,) = (each for each in statements if each["Sid"] == "AlarmsAndRules")
        assert "cloudwatch.amazonaws.com" in statement["Principal"]["Service"]


def test_metrics_are_of_resources_that_the_stack_made(aws, alarms):
    balancing, sns = aws.boto3_client("elbv2"), aws.boto3_client("sns")
    (balancer,) = balancing.describe_load_balancers()["LoadBalancers"]
    (servers,) = balancing.describe_target_groups()["TargetGroups"]
    services = aws.boto3_client("ecs").list_services(cluster="fibflow")["serviceArns"]
    group = stacks.template("data")["Resources"]["Redis"]["Properties"]["ReplicationGroupId"]["Fn::Sub"]
    there = {
        "StreamName": aws.boto3_client("kinesis").list_streams()["StreamNames"],
        "DBInstanceIdentifier": [
            each["DBInstanceIdentifier"]
            for each in aws.boto3_client("rds").describe_db_instances()["DBInstances"]
        ],
        "CacheClusterId": [group.replace("${Name}", "fibflow") + "-001"],
        "LoadBalancer": [balancer["LoadBalancerArn"].partition("loadbalancer/")[2]],
        "TargetGroup": [servers["TargetGroupArn"].rpartition(":")[2]],
        "ClusterName": ["fibflow"],
        "ServiceName": [each.rpartition("/")[2] for each in services],
        "QueueName": [each.rpartition("/")[2] for each in aws.boto3_client("sqs").list_queues()["QueueUrls"]],
        "TableName": aws.boto3_client("dynamodb").list_tables()["TableNames"],
        "TopicName": [each["TopicArn"].rpartition(":")[2] for each in sns.list_topics()["Topics"]],
    }
    seen = set()
    for name, alarm in alarms.items():
        for metric in metrics(alarm).values():
            for each in metric["Dimensions"]:
                assert each["Value"] in there[each["Name"]], name
                seen.add((each["Name"], each["Value"]))
    # Each table, service and topic has one of its own.
    for kind in ("TableName", "ServiceName", "TopicName", "QueueName", "StreamName"):
        assert {value for name, value in seen if name == kind} == set(there[kind])


@pytest.mark.parametrize("size", stacks.SIZES)
def test_thresholds_follow_the_size(exports, size):
    sizes = stacks.template("data")["Mappings"]["Sizes"][size]
    found = {each["AlarmName"]: each for each in resolved(exports, size)}
    assert found["fibflow-database-disk"]["Threshold"] == sizes["DatabaseGb"] * 2**30 // 20
    nodes = [name for name in found if name in ("fibflow-redis-memory", "fibflow-replica-memory")]
    assert len(nodes) == sizes["RedisNodes"]


def runs(*parts):
    """Values of periods: pairs (value, how many)."""
    return list(itertools.chain.from_iterable([value] * count for value, count in parts))


#: By alarm: what is told, and the state in the end. A quiet weekend is a stack that nobody uses.
CASES = {
    "stream-behind": [
        ({AGE: runs((0, 60))}, OK),
        ({AGE: runs((0, 20), (400_000, 14))}, OK),
        ({AGE: runs((0, 20), (400_000, 15))}, ALARM),
        ({AGE: runs((0, 20), (None, 15))}, ALARM),
        ({AGE: runs((0, 20), (None, 10), (600_000, 4), (0, 1))}, OK),
    ],
    "stream-near-loss": [
        ({AGE: runs((0, 60))}, OK),
        ({AGE: runs((43_000_000, 20))}, OK),
        ({AGE: runs((0, 5), (43_300_000, 2))}, ALARM),
        ({AGE: runs((0, 5), (43_300_000, 2), (None, 20))}, ALARM),
        ({AGE: runs((0, 5), (None, 20))}, OK),
    ],
    "stream-throttled": [
        ({"WriteProvisionedThroughputExceeded": runs((None, 60))}, OK),
        ({"WriteProvisionedThroughputExceeded": runs((None, 9), (5, 9), (None, 6))}, OK),
        ({"WriteProvisionedThroughputExceeded": runs((None, 9), (5, 10), (None, 5))}, ALARM),
        ({"WriteProvisionedThroughputExceeded": runs((5, 15), (None, 6))}, OK),
    ],
    "database-disk": [
        ({"FreeStorageSpace": runs((40e9, 20))}, OK),
        ({"FreeStorageSpace": runs((40e9, 20), (2.6e9, 3))}, ALARM),
        ({"FreeStorageSpace": runs((40e9, 20), (None, 2))}, OK),
        ({"FreeStorageSpace": runs((40e9, 20), (None, 3))}, ALARM),
    ],
    "database-processor": [
        ({"CPUUtilization": runs((3, 20))}, OK),
        ({"CPUUtilization": runs((3, 20), (95, 2), (80, 1))}, OK),
        ({"CPUUtilization": runs((3, 20), (95, 3))}, ALARM),
        ({"CPUUtilization": runs((95, 3), (None, 3))}, UNKNOWN),
    ],
    "redis-memory": [
        ({"DatabaseMemoryUsagePercentage": runs((60, 60))}, OK),
        ({"DatabaseMemoryUsagePercentage": runs((60, 60), (86, 5))}, ALARM),
        ({"DatabaseMemoryUsagePercentage": runs((60, 60), (None, 5))}, ALARM),
    ],
    "answers-fail": [
        ({name: runs((None, 60)) for name in ANSWERS}, OK),
        (dict(zip(ANSWERS, (runs((1000, 30)), runs((19, 30)), runs((None, 30))), strict=True)), OK),
        (dict(zip(ANSWERS, (runs((1000, 30)), runs((21, 30)), runs((None, 30))), strict=True)), ALARM),
        (dict(zip(ANSWERS, (runs((20, 30)), runs((20, 30)), runs((None, 30))), strict=True)), OK),
        # No server takes anything: the load balancer says so itself.
        (dict(zip(ANSWERS, (runs((None, 30)), runs((None, 30)), runs((500, 30))), strict=True)), ALARM),
        (dict(zip(ANSWERS, (runs((1000, 30)), runs((50, 4), (0, 26)), runs((None, 30))), strict=True)), OK),
    ],
    "no-server": [
        ({"HealthyHostCount": runs((2, 60))}, OK),
        ({"HealthyHostCount": runs((2, 60), (0, 2), (1, 1))}, OK),
        ({"HealthyHostCount": runs((2, 60), (0, 3))}, ALARM),
        ({"HealthyHostCount": runs((2, 60), (None, 3))}, ALARM),
    ],
    "server-unhealthy": [
        ({"UnHealthyHostCount": runs((0, 60))}, OK),
        ({"UnHealthyHostCount": runs((0, 60), (1, 9))}, OK),
        ({"UnHealthyHostCount": runs((0, 60), (1, 10))}, ALARM),
        ({"UnHealthyHostCount": runs((1, 10), (None, 10))}, OK),
    ],
    **{
        f"{service}-missing": [
            (dict.fromkeys(TASKS, runs((2, 60))), OK),
            ({TASKS[0]: runs((2, 20), (1, 9)), TASKS[1]: runs((2, 29))}, OK),
            ({TASKS[0]: runs((2, 20), (1, 10)), TASKS[1]: runs((2, 30))}, ALARM),
            ({TASKS[0]: runs((2, 20), (None, 10)), TASKS[1]: runs((2, 30))}, ALARM),
            (dict.fromkeys(TASKS, runs((1, 20), (None, 10))), ALARM),
            ({TASKS[0]: runs((2, 40)), TASKS[1]: runs((4, 5), (2, 35))}, OK),
        ]
        for service in ("ingest", "serving", "notify", "news")
    },
    "daily-unstarted": [
        ({"ApproximateNumberOfMessagesVisible": runs((0, 5), (None, 50))}, OK),
        ({"ApproximateNumberOfMessagesVisible": runs((None, 50), (1, 1))}, ALARM),
    ],
    **{
        f"{table}-throttled": [
            (dict(zip(THROTTLED, (runs((None, 60)), runs((None, 60)), runs((9, 60))), strict=True)), OK),
            (
                dict(
                    zip(THROTTLED, (runs((None, 30)), runs((None, 20), (3, 10)), runs((9, 30))), strict=True)
                ),
                ALARM,
            ),
            (
                dict(zip(THROTTLED, (runs((3, 10)), runs((None, 10)), runs((9, 10))), strict=True)),
                ALARM,
            ),
            # It ends where anybody writes; where nobody does it stays, as AWS has it of DynamoDB.
            (
                dict(
                    zip(THROTTLED, (runs((3, 15), (None, 6)), runs((None, 21)), runs((9, 21))), strict=True)
                ),
                OK,
            ),
            (dict.fromkeys(THROTTLED, runs((3, 15), (None, 20))), ALARM),
        ]
        for table in ("prices", "ticks")
    },
    "alerts-fail": [
        ({"NumberOfNotificationsFailed": runs((None, 50))}, OK),
        ({"NumberOfNotificationsFailed": runs((None, 50), (4, 1), (None, 5))}, OK),
        ({"NumberOfNotificationsFailed": runs((None, 50), (4, 3))}, ALARM),
    ],
    "operations-fail": [
        ({"NumberOfNotificationsFailed": runs((None, 50))}, OK),
        ({"NumberOfNotificationsFailed": runs((None, 50), (1, 1))}, ALARM),
    ],
}


def test_each_alarm_has_cases_that_fire_it_and_that_do_not(alarms):
    assert set(CASES) == set(alarms)
    for cases in CASES.values():
        assert {ALARM, OK} <= {state for _, state in cases}


@pytest.mark.parametrize("name", CASES)
def test_an_alarm_fires_on_its_fault_and_not_on_a_quiet_weekend(alarms, name):
    for told, expected in CASES[name]:
        assert states(alarms[name], told)[-1] == expected, told


def test_a_change_of_state_is_in_the_alarms_history(aws, alarms):
    client = aws.boto3_client("cloudwatch")
    told = {AGE: runs((0, 20), (None, 15), (0, 1))}
    changes = [state for state, _ in itertools.groupby(states(alarms["stream-behind"], told)[15:])]
    assert changes == [OK, ALARM, OK]
    for state in changes:
        client.set_alarm_state(AlarmName="fibflow-stream-behind", StateValue=state, StateReason="a test")
    (alarm,) = client.describe_alarms(AlarmNames=["fibflow-stream-behind"])["MetricAlarms"]
    assert alarm["StateValue"] == OK
