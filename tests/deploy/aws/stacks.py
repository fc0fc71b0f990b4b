"""The templates as documents, and as stacks on the emulator, without the types that it does not know."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cfnlint.decode import cfn_yaml
from moto.cloudformation import parsing

from fibflow.io.aws import AwsConfig
from fibflow.tests.deploy.aws.journal import ACCOUNT, REGION

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "aws"
#: In the order in which they are made: each imports what those before it export.
NAMES = ("network", "data", "roles", "services", "edge", "daily", "alarms")
SIZES = ("try-out", "team", "market")
#: The emulator makes none of these. A type that it learns must leave the list: the test says so.
UNKNOWN = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudFront::CachePolicy",
    "AWS::CloudFront::Distribution",
    "AWS::CloudWatch::Alarm",
    "AWS::ElastiCache::ParameterGroup",
    "AWS::ElastiCache::ReplicationGroup",
    "AWS::ElastiCache::SubnetGroup",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::Scheduler::Schedule",
    "AWS::SecretsManager::Secret",
}
#: Properties that the emulator falls over, and how.
LEFT_OUT = {
    ("AWS::RDS::DBInstance", "DBParameterGroupName"): "it takes the group's name for the group",
}
DOMAIN = "api.example.org"
_REFERENCE = re.compile(r"\$\{([A-Za-z]+)((?:\.[A-Za-z]+)*)\}")


def path_of(name: str) -> Path:
    """Return where a template is."""
    return FOLDER / f"{name}.yaml"


def template(name: str) -> dict[str, Any]:
    """Return a template with its functions in their long form."""
    # Plain objects: the parser's own remember where they stood.
    return json.loads(json.dumps(cfn_yaml.loads(path_of(name).read_text())))


def resources(kind: str | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (template, logical id, resource) of all templates, or of one type."""
    for name in NAMES:
        for logical, resource in template(name)["Resources"].items():
            if kind is None or resource["Type"] == kind:
                yield name, logical, resource


def known_types() -> set[str]:
    """Return the types that the emulator makes."""
    return set(parsing.get_model_map())


def deployable(name: str) -> dict[str, Any]:
    """Return a template without what the emulator does not make, and placeholders where that is meant."""
    document = template(name)
    gone = {
        logical: resource
        for logical, resource in document["Resources"].items()
        if resource["Type"] in UNKNOWN
    }
    for logical in gone:
        del document["Resources"][logical]
    for resource in document["Resources"].values():
        for kind, property_ in LEFT_OUT:
            if resource["Type"] == kind:
                del resource["Properties"][property_]
        needs = resource.pop("DependsOn", [])
        kept = [each for each in ([needs] if isinstance(needs, str) else needs) if each not in gone]
        if kept:
            resource["DependsOn"] = kept
    return _without(document, gone)


def _without(node: Any, gone: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_without(each, gone) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("Ref") in gone:
        return _stands_for(node["Ref"], gone)
    if "Fn::GetAtt" in node and node["Fn::GetAtt"][0] in gone:
        logical, *attribute = node["Fn::GetAtt"]
        return f"{logical}-{'-'.join(attribute)}".replace(".", "-").lower()
    if "Fn::Sub" in node:
        return {"Fn::Sub": _substituted(node["Fn::Sub"], gone)}
    return {key: _without(value, gone) for key, value in node.items()}


def _substituted(given: Any, gone: Mapping[str, Any]) -> Any:
    if isinstance(given, list):
        text, values = given
        return [_substituted(text, gone), _without(values, gone)]

    def one(found: re.Match[str]) -> str:
        if found[1] not in gone:
            return found[0]
        return f"{found[1]}{found[2]}".replace(".", "-").lower() if found[2] else _stands_for(found[1], gone)

    return _REFERENCE.sub(one, given)


def _stands_for(logical: str, gone: Mapping[str, Any]) -> str:
    resource = gone[logical]
    if resource["Type"] != "AWS::SecretsManager::Secret":
        return logical
    name = resource["Properties"]["Name"]["Fn::Sub"].replace("${Name}", "fibflow")
    return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-AbCdEf"


def deploy(aws: AwsConfig, **given: str) -> dict[str, dict[str, str]]:
    """Make the stacks with some parameters, and return the outputs of each."""
    client = aws.boto3_client("cloudformation")
    certificate = aws.boto3_client("acm").request_certificate(DomainName=DOMAIN)["CertificateArn"]
    given = {"Version": "1.2.3", "Certificate": certificate, "Domain": DOMAIN} | given
    found = {}
    for name in NAMES:
        document = deployable(name)
        values = {key: value for key, value in given.items() if key in document["Parameters"]}
        client.create_stack(
            StackName=f"fibflow-{name}",
            TemplateBody=json.dumps(document),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (stack,) = client.describe_stacks(StackName=f"fibflow-{name}")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
        found[name] = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", ())}
    return found


def remove(aws: AwsConfig) -> None:
    """Take the stacks away again."""
    client = aws.boto3_client("cloudformation")
    for name in reversed(NAMES):
        client.delete_stack(StackName=f"fibflow-{name}")
