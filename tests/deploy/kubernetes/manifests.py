"""The manifests as documents, and the pods that come of them."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fibflow.deploy.kubernetes.fill import ALWAYS, FOLDER, filled, read_values

#: The least and the newest release of Kubernetes that the manifests are held against.
KUBERNETES = ("1.31", "1.37")
OPERATOR = "1.10.0"
JOBS = tuple(f"jobs/{name}.yaml" for name in ("submit", "stop", "resume", "recover"))
FILES = (*ALWAYS, "daily.yaml", *JOBS)
VALUES = read_values(FOLDER / "values.env")
_FLINK = "FlinkDeployment"
_VARIABLE = re.compile(r"\$\(([A-Z_]+)\)")


class Pod(NamedTuple):
    """What a manifest makes pods of."""

    name: str
    kind: str
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]

    def containers(self) -> Iterator[Mapping[str, Any]]:
        """Yield its containers, those that begin before the others too."""
        yield from self.spec.get("initContainers", ())
        yield from self.spec["containers"]


def documents(*names: str) -> list[dict[str, Any]]:
    """Return the documents of manifests, filled with the example's values; of all without names."""
    texts = (filled(name, VALUES) for name in names or FILES)
    return [each for text in texts for each in yaml.safe_load_all(text)]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """Return the documents of a kind, by name."""
    return {each["metadata"]["name"]: each for each in documents() if each["kind"] == kind}


def flink() -> dict[str, Any]:
    """Return the FlinkDeployment."""
    (found,) = of_kind(_FLINK).values()
    return found


def pods() -> Iterator[Pod]:
    """Yield the pods of all manifests; of Flink as the operator puts them together."""
    for document in documents():
        spec = document.get("spec", {})
        if document["kind"] == _FLINK:
            for part in ("jobManager", "taskManager"):
                yield _flink_pod(spec, part)
            continue
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            metadata = document["metadata"]
            name = metadata.get("name") or metadata["generateName"].rstrip("-")
            yield Pod(name, document["kind"], template["metadata"], template["spec"])


def arguments_of(container: Mapping[str, Any]) -> list[str]:
    """Return the arguments of a Python command, its module first, with its variables in place."""
    values = {each["name"]: each.get("value", "secret") for each in container.get("env", ())}
    return [_VARIABLE.sub(lambda match: values[match[1]], each) for each in container.get("args", ())]


def crd(folder: Path) -> dict[str, Any]:
    """Return the schema of a FlinkDeployment out of the operator's own library, which Maven fetches."""
    maven = shutil.which("mvn")
    assert maven, "no mvn: `make setup` installs it"
    command = [
        *(maven, "--batch-mode", "--no-transfer-progress", "--quiet"),
        "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
        f"-Dartifact=org.apache.flink:flink-kubernetes-operator-api:{OPERATOR}",
        f"-DoutputDirectory={folder}",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(folder / f"flink-kubernetes-operator-api-{OPERATOR}.jar") as jar:
        text = jar.read("META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml")
    (version,) = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    assert version["name"] == "v1beta1"
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """Return a schema that refuses what it does not name: the cluster would drop it without a word."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(each) for name, each in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def _flink_pod(spec: Mapping[str, Any], part: str) -> Pod:
    merged = _merged(spec["podTemplate"], spec[part]["podTemplate"])
    for container in merged["spec"]["containers"]:
        if container["name"] == "flink-main-container":
            memory = re.sub("m$", "Mi", spec[part]["resource"]["memory"])
            container["image"] = spec["image"]
            container["resources"] = {
                "requests": {"cpu": str(spec[part]["resource"]["cpu"]), "memory": memory},
                "limits": {"memory": memory},
            }
    merged["spec"]["serviceAccountName"] = spec["serviceAccount"]
    return Pod(f"flink-{part}", _FLINK, merged["metadata"], merged["spec"])


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return two templates as one: maps by key, containers by name, other lists one behind the other."""
    made = copy.deepcopy(dict(one))
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = _merged(made[key], value)
        elif key == "containers" and key in made:
            by_name = {each["name"]: each for each in made[key]}
            for each in value:
                by_name[each["name"]] = _merged(by_name.get(each["name"], {}), each)
            made[key] = list(by_name.values())
        elif isinstance(value, list) and key in made:
            made[key] = [*made[key], *value]
        else:
            made[key] = copy.deepcopy(value)
    return made
