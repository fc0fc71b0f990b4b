"""CloudWatch's alarms as they are deployed, and what becomes of them: the emulator judges none.

States follow AWS's documentation in short: of the last N periods M have to breach; what is missing counts as
the alarm says, or, of DynamoDB's metrics, leaves it as it was. Of math there is what our alarms use.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OK, ALARM, UNKNOWN = "OK", "ALARM", "INSUFFICIENT_DATA"
Values = Sequence[float | None]
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
}
_OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
}
_VARIABLE = re.compile(r"\$\{([\w:]+)\}")


class Resolver:
    """Works a template's functions out.

    Args:
        template: with functions in their long form.
        given: parameters.
        exports: of the stacks before it.
        pseudo: such as ``AWS::Region``.
    """

    def __init__(
        self,
        template: Mapping[str, Any],
        given: Mapping[str, str],
        exports: Mapping[str, str],
        pseudo: Mapping[str, str],
    ) -> None:
        parameters = {name: each.get("Default") for name, each in template["Parameters"].items()}
        self._names = {**parameters, **given, **pseudo}
        self._exports, self._template = exports, template

    def alarms(self) -> list[dict[str, Any]]:
        """Return the properties of all alarms that are made."""
        found = self._template["Resources"].values()
        return [self(each["Properties"]) for each in found if self._is_made(each.get("Condition"))]

    def _is_made(self, condition: str | None) -> bool:
        if condition is None:
            return True
        one, other = self._template["Conditions"][condition]["Fn::Equals"]
        return str(self(one)) == str(self(other))

    def __call__(self, node: Any) -> Any:
        """Return a part of the template without functions."""
        if isinstance(node, list):
            return [self(each) for each in node]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, inner),) = node.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._function(name, inner if name == "Fn::Sub" else self(inner))
        return {key: self(value) for key, value in node.items()}

    def _function(self, name: str, inner: Any) -> Any:
        match name:
            case "Ref":
                return self._names[inner]
            case "Fn::Sub":
                return _VARIABLE.sub(lambda found: str(self._names[found[1]]), inner)
            case "Fn::ImportValue":
                return self._exports[inner]
            case "Fn::Select":
                return inner[1][int(inner[0])]
            case "Fn::Split":
                return inner[1].split(inner[0])
            case "Fn::FindInMap":
                return self._template["Mappings"][inner[0]][inner[1]][inner[2]]
        raise NotImplementedError(name)


def metrics(alarm: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metrics of an alarm by their ids; the only one of a plain alarm is ``told``."""
    if not alarm.get("Metrics"):
        plain = {key: alarm[key] for key in ("Namespace", "MetricName", "Dimensions", "Statistic", "Period")}
        return {"told": plain}
    return {
        each["Id"]: {**each["MetricStat"]["Metric"], "Period": each["MetricStat"]["Period"]}
        for each in alarm["Metrics"]
        if "MetricStat" in each
    }


def states(alarm: Mapping[str, Any], told: Mapping[str, Values]) -> list[str]:
    """Return an alarm's state after each period.

    Args:
        alarm: as CloudWatch describes it.
        told: by metric, a value a period; None where there was none. All are of one length.
    """
    values = _values(alarm, told)
    compare, threshold = _COMPARE[alarm["ComparisonOperator"]], alarm["Threshold"]
    periods, most = alarm["EvaluationPeriods"], alarm["DatapointsToAlarm"]
    missing = alarm["TreatMissingData"]
    if any(each["Namespace"] == "AWS/DynamoDB" for each in metrics(alarm).values()):
        missing = "ignore"
    found, state = [], UNKNOWN
    for end in range(1, len(values) + 1):
        seen = [None] * max(0, periods - end) + list(values[max(0, end - periods) : end])
        breaching = sum(compare(each, threshold) for each in seen if each is not None)
        gaps = seen.count(None)
        if missing == "breaching":
            breaching += gaps
        if breaching >= most:
            state = ALARM
        elif gaps == periods and missing == "missing":
            state = UNKNOWN
        elif missing != "ignore" or breaching + gaps < most:
            state = OK
        found.append(state)
    return found


def _values(alarm: Mapping[str, Any], told: Mapping[str, Values]) -> list[float | None]:
    (length,) = {len(each) for each in told.values()}
    known = metrics(alarm)
    assert {each["MetricName"] for each in known.values()} == set(told), sorted(told)
    if not alarm.get("Metrics"):
        return list(told[alarm["MetricName"]])
    own = {name: told[each["MetricName"]] for name, each in known.items()}
    expressions = {each["Id"]: each["Expression"] for each in alarm["Metrics"] if "Expression" in each}
    (shown,) = (each["Id"] for each in alarm["Metrics"] if each.get("ReturnData", True))
    found = []
    for at in range(length):
        names = {name: each[at] for name, each in own.items()}
        nothing = all(each is None for each in names.values())
        found.append(None if nothing else _result(expressions[shown], names, expressions))
    return found


def _result(text: str, names: Mapping[str, float | None], others: Mapping[str, str]) -> float | None:
    def work(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body):
                return work(body)
            case ast.Constant(value):
                return value
            case ast.Name(name):
                return names[name] if name in names else _result(others[name], names, others)
            case ast.BinOp(left, kind, right):
                return _both(kind, work(left), work(right))
            case ast.Compare(left, [kind], [right]):
                return _both(kind, work(left), work(right))
            case ast.Call(ast.Name("FILL"), [given, instead]):
                value = work(given)
                return work(instead) if value is None else value
            case ast.Call(ast.Name("IF"), [condition, then, otherwise]):
                holds = work(condition)
                return None if holds is None else work(then if holds else otherwise)
        raise NotImplementedError(ast.dump(node))

    return work(ast.parse(text, mode="eval"))


def _both(kind: ast.AST, left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else _OPERATORS[type(kind)](left, right)
