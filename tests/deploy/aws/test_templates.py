"""The templates: lint, what the emulator makes of them, and what must hold whoever edits them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fibflow.io.dynamodb import PriceTable, TickTable
from fibflow.pipelines import daily, ingest, news, notify
from fibflow.serving.__main__ import parser as serving_parser
from fibflow.tests.deploy.aws import stacks
from fibflow.tests.deploy.aws.journal import REGION, recording
from fibflow.tests.deploy.aws.stacks import NAMES, resources, template

#: Actions that AWS gives no resource for.
WITHOUT_RESOURCE = {"ecr:GetAuthorizationToken"}
PARSERS = {
    "fibflow.pipelines.daily": daily.parser,
    "fibflow.pipelines.ingest": ingest.parser,
    "fibflow.pipelines.news": news.parser,
    "fibflow.pipelines.notify": notify.parser,
    "fibflow.serving": serving_parser,
}
PUBLIC = {"AWS::ElasticLoadBalancingV2::LoadBalancer", "AWS::CloudFront::Distribution"}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    with recording(tmp_path_factory.mktemp("aws")) as made:
        yield made


@pytest.fixture(scope="module", params=stacks.SIZES)
def deployed(emulator, request):
    """(size, emulator, outputs)"""
    emulator.forget()
    outputs = stacks.deploy(emulator.aws, Size=request.param)
    return request.param, emulator.aws, outputs


def test_the_templates_pass_lint():
    paths = [str(stacks.path_of(name)) for name in NAMES]
    program = str(Path(sys.executable).with_name("cfn-lint"))
    command = [program, "--regions", REGION, "--format", "json", *paths]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [f"{each['Filename']}: {each['Message']}" for each in json.loads(told.stdout or "[]")]
    assert (told.returncode, found) == (0, [])


def test_what_the_emulator_does_not_know_is_listed_and_nothing_else():
    used = {resource["Type"] for _, _, resource in resources()}
    assert used - stacks.known_types() == stacks.UNKNOWN


def test_a_stack_imports_what_those_before_it_export():
    exported: set[str] = set()
    for name in NAMES:
        document = template(name)
        assert _imports(document) <= exported, name
        outputs = document.get("Outputs", {}).values()
        exported |= {one["Export"]["Name"]["Fn::Sub"] for one in outputs if "Export" in one}


def test_all_sizes_deploy_as_they_say(deployed):
    size, aws, outputs = deployed
    sizes = template("data")["Mappings"]["Sizes"][size]
    shards = aws.boto3_client("kinesis").describe_stream_summary(StreamName=outputs["data"]["Stream"])
    assert shards["StreamDescriptionSummary"]["OpenShardCount"] == sizes["Shards"]
    (database,) = aws.boto3_client("rds").describe_db_instances()["DBInstances"]
    assert database["DBInstanceClass"] == sizes["DatabaseClass"]
    assert database["MultiAZ"] == (sizes["DatabaseTwoZones"] == "true")
    ecs = aws.boto3_client("ecs")
    servers = ecs.describe_services(cluster="fibflow", services=["serving"])["services"][0]
    assert servers["desiredCount"] == template("services")["Mappings"]["Sizes"][size]["Servers"]
    ec2 = aws.boto3_client("ec2")
    points = {
        each["ServiceName"].rpartition("us-east-1.")[2]
        for each in ec2.describe_vpc_endpoints()["VpcEndpoints"]
    }
    apart = {"kinesis-streams", "secretsmanager", "ecr.api", "ecr.dkr", "logs", "sns"}
    assert points == {"s3", "dynamodb"} | (apart if size != "try-out" else set())
    gateways = [each for each in ec2.describe_nat_gateways()["NatGateways"] if each["State"] == "available"]
    assert len(gateways) == (2 if size == "market" else 1)
    days = {each["retentionInDays"] for each in aws.boto3_client("logs").describe_log_groups()["logGroups"]}
    assert days == {30}


def test_the_stream_has_shards_or_is_paid_by_use():
    ((_, _, stream),) = resources("AWS::Kinesis::Stream")
    assert stream["Properties"]["StreamModeDetails"] == {"StreamMode": {"Ref": "StreamMode"}}
    condition, _, otherwise = stream["Properties"]["ShardCount"]["Fn::If"]
    assert template("data")["Conditions"][condition] == {"Fn::Equals": [{"Ref": "StreamMode"}, "PROVISIONED"]}
    assert otherwise == {"Ref": "AWS::NoValue"}


def test_the_tables_are_those_that_the_program_makes(deployed):
    _, aws, outputs = deployed
    client = aws.boto3_client("dynamodb")
    for kind, name in ((PriceTable, "PriceTable"), (TickTable, "TickTable")):
        kind(f"made-{name}", aws).create_tables()
        ours, theirs = (
            client.describe_table(TableName=table)["Table"]
            for table in (outputs["data"][name], f"made-{name}")
        )
        for part in ("KeySchema", "AttributeDefinitions", "BillingModeSummary"):
            assert _sorted(ours[part]) == _sorted(theirs[part])
        assert not ours.get("GlobalSecondaryIndexes")
        assert not ours.get("LocalSecondaryIndexes")
        # The emulator makes neither time to live nor encryption of a stack's table.
        lives = client.describe_time_to_live(TableName=f"made-{name}")["TimeToLiveDescription"]
        assert lives.pop("TimeToLiveStatus") == "ENABLED"
        declared = template("data")["Resources"][name]["Properties"]
        assert declared["TimeToLiveSpecification"] == {**lives, "Enabled": True}
        assert declared["SSESpecification"] == {"SSEEnabled": True}


def test_commands_are_ones_that_the_programs_take(deployed):
    _, aws, _ = deployed
    for container in _containers(aws):
        module, *arguments = container["command"]
        assert container["entryPoint"] == ["python", "-m"]
        PARSERS[module]().parse_args(arguments)


def test_a_service_gets_the_secrets_that_its_role_of_execution_may_fetch():
    starts = {}
    for _, _, role in resources("AWS::IAM::Role"):
        for policy in role["Properties"].get("Policies", ()):
            if policy["PolicyName"] == "secrets":
                (statement,) = policy["PolicyDocument"]["Statement"]
                assert statement["Action"] == "secretsmanager:GetSecretValue"
                starts[role["Properties"]["RoleName"]["Fn::Sub"]] = _imports(statement["Resource"])
    for _, _, task in resources("AWS::ECS::TaskDefinition"):
        properties = task["Properties"]
        name = properties["Family"]["Fn::Sub"]
        assert _imports(properties["TaskRoleArn"]) == {f"{name}-role"}
        assert _imports(properties["ExecutionRoleArn"]) == {f"{name}-start"}
        (container,) = properties["ContainerDefinitions"]
        assert _imports(container["Secrets"]) == starts.pop(f"{name}-start")
    assert not starts


def test_no_secret_is_a_plain_variable_or_a_parameter(deployed):
    _, aws, _ = deployed
    for container in _containers(aws):
        names = {one["name"] for one in container["environment"]}
        assert names <= {"AWS_REGION", "DATABASE_URL", "FORWARDED_ALLOW_IPS"}
    for name in NAMES:
        assert not [key for key in template(name)["Parameters"] if "assword" in key or "Secret" in key]


def test_only_the_load_balancer_and_cloudfront_are_public():
    for name, logical, resource in resources():
        kind, properties = resource["Type"], resource.get("Properties", {})
        text = json.dumps(properties)
        where = f"{name}: {logical}"
        if kind == "AWS::EC2::SecurityGroup":
            for rule in properties.get("SecurityGroupIngress", ()):
                assert "CidrIpv6" not in rule, where
                assert rule.get("CidrIp", {"Fn::Sub": "10."})["Fn::Sub"].startswith("10."), where
        assert '"PubliclyAccessible": true' not in text, where
        assert '"AssignPublicIp": "ENABLED"' not in text, where
        assert "internet-facing" not in text or kind in PUBLIC, where
        if kind == "AWS::EC2::Subnet":
            assert properties["MapPublicIpOnLaunch"] is False, where
        if kind == "AWS::RDS::DBInstance":
            assert properties["PubliclyAccessible"] is False
        if kind == "AWS::ECS::Service":
            network = properties["NetworkConfiguration"]["AwsvpcConfiguration"]
            assert network["AssignPublicIp"] == "DISABLED", where


def test_databases_have_no_way_out():
    document = template("network")["Resources"]
    routes = [one["Properties"] for one in document.values() if one["Type"] == "AWS::EC2::Route"]
    assert not [route for route in routes if route["RouteTableId"] == {"Ref": "DataRoutes"}]
    for kind, property_ in (
        ("AWS::RDS::DBSubnetGroup", "SubnetIds"),
        ("AWS::ElastiCache::SubnetGroup", "SubnetIds"),
    ):
        for _, _, resource in resources(kind):
            assert "${Name}-data-subnets" in json.dumps(resource["Properties"][property_])


def test_what_is_kept_is_encrypted_and_what_moves_too():
    def only(kind: str) -> dict[str, Any]:
        ((_, _, resource),) = resources(kind)
        return resource["Properties"]

    bucket = only("AWS::S3::Bucket")
    assert bucket["BucketEncryption"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert rules["orphaned-uploads"]["AbortIncompleteMultipartUpload"]
    (denied,) = only("AWS::S3::BucketPolicy")["PolicyDocument"]["Statement"]
    assert denied["Effect"] == "Deny"
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert len(denied["Resource"]) == 2
    assert only("AWS::Kinesis::Stream")["StreamEncryption"]["EncryptionType"] == "KMS"
    assert only("AWS::RDS::DBInstance")["StorageEncrypted"] is True
    assert only("AWS::RDS::DBParameterGroup")["Parameters"] == {"rds.force_ssl": "1"}
    redis = only("AWS::ElastiCache::ReplicationGroup")
    assert (redis["AtRestEncryptionEnabled"], redis["TransitEncryptionEnabled"]) == (True, True)
    assert redis["AuthToken"]
    assert only("AWS::EFS::FileSystem")["Encrypted"] is True
    assert only("AWS::SQS::Queue")["SqsManagedSseEnabled"] is True
    assert only("AWS::ElasticLoadBalancingV2::Listener")["Protocol"] == "HTTPS"
    for _, logical, topic in resources("AWS::SNS::Topic"):
        assert topic["Properties"]["KmsMasterKeyId"], logical
    for _, logical, task in resources("AWS::ECS::TaskDefinition"):
        for volume in task["Properties"].get("Volumes", ()):
            assert volume["EFSVolumeConfiguration"]["TransitEncryption"] == "ENABLED", logical


def test_what_cannot_be_made_again_outlives_its_stack():
    kept = {"AWS::S3::Bucket", "AWS::RDS::DBInstance", "AWS::ECR::Repository"}
    for _, logical, resource in resources():
        if resource["Type"] in kept or logical in ("VendorKey", "KeyPepper", "DatabasePassword"):
            assert resource["DeletionPolicy"] in ("Retain", "Snapshot"), logical


def test_no_role_has_a_wildcard_but_for_what_has_no_resource():
    statements = 0
    for _, logical, resource in resources():
        if resource["Type"] not in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy"):
            continue
        properties = resource["Properties"]
        documents = [one["PolicyDocument"] for one in properties.get("Policies", ())]
        documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
        for statement in (each for document in documents for each in document["Statement"]):
            statements += 1
            assert statement["Effect"] == "Allow"
            assert "NotAction" not in statement
            actions = statement["Action"]
            actions = [actions] if isinstance(actions, str) else actions
            assert not [action for action in actions if "*" in action], logical
            if statement["Resource"] == "*":
                assert set(actions) <= WITHOUT_RESOURCE, logical
        trust = properties.get("AssumeRolePolicyDocument")
        for statement in trust["Statement"] if trust else ():
            assert set(statement["Principal"]) == {"Service"}, logical
            assert "aws:SourceAccount" in json.dumps(statement["Condition"]), logical
    assert statements > 20


def test_a_role_has_one_policy_of_its_service():
    for _, logical, role in resources("AWS::IAM::Role"):
        properties = role["Properties"]
        if logical.endswith("Start"):
            assert properties["ManagedPolicyArns"] == [{"Ref": "StartPolicy"}]
        elif logical == "StreamRole":
            assert properties["ManagedPolicyArns"] == [{"Ref": "StreamPolicy"}]
        else:
            assert "ManagedPolicyArns" not in properties
        assert len(properties.get("Policies", ())) == (logical != "StreamRole")


def test_cloudfront_follows_the_servers_headers_and_lets_websockets_pass():
    ((_, _, policy),) = resources("AWS::CloudFront::CachePolicy")
    config = policy["Properties"]["CachePolicyConfig"]
    assert (config["MinTTL"], config["DefaultTTL"]) == (0, 0)
    key = config["ParametersInCacheKeyAndForwardedToOrigin"]
    assert "Authorization" in key["HeadersConfig"]["Headers"]
    assert key["QueryStringsConfig"] == {"QueryStringBehavior": "all"}
    ((_, _, made),) = resources("AWS::CloudFront::Distribution")
    config = made["Properties"]["DistributionConfig"]
    assert {"GET", "POST", "PATCH", "DELETE"} <= set(config["DefaultCacheBehavior"]["AllowedMethods"])
    (sockets,) = config["CacheBehaviors"]
    assert sockets["PathPattern"] == "/stocks"
    # AWS's CachingDisabled and AllViewer: the headers of the handshake are handed on.
    assert sockets["CachePolicyId"] == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
    assert sockets["OriginRequestPolicyId"] == "216adef6-5c7f-47e4-b989-5492eafa07d3"
    assert config["Origins"][0]["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"


def test_the_daily_run_is_on_the_exchanges_clock():
    ((_, _, schedule),) = resources("AWS::Scheduler::Schedule")
    assert schedule["Properties"]["ScheduleExpressionTimezone"] == "America/New_York"


def _containers(aws: Any) -> Iterator[dict[str, Any]]:
    ecs = aws.boto3_client("ecs")
    arns = ecs.list_task_definitions()["taskDefinitionArns"]
    assert len(arns) == 5
    for arn in arns:
        yield from ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]["containerDefinitions"]


def _imports(node: Any) -> set[str]:
    return {one["Fn::ImportValue"]["Fn::Sub"] for one in _nodes(node, "Fn::ImportValue")}


def _nodes(node: Any, key: str) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if key in node:
            yield node
        for value in node.values():
            yield from _nodes(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value, key)


def _sorted(part: Any) -> Any:
    if isinstance(part, dict):
        # When it was made is in it.
        return {key: value for key, value in part.items() if key == "BillingMode"}
    return sorted(part, key=lambda one: one["AttributeName"])
