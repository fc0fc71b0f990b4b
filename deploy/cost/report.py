"""The report: ``docs/cost.md``."""

from __future__ import annotations

from collections.abc import Iterator

from fibflow.deploy.cost import ours, predecessor
from fibflow.deploy.cost.load import Load
from fibflow.deploy.cost.predecessor import STATED, USERS, Part, load_of, total
from fibflow.deploy.cost.prices import DATE, MEMORY, PRICES, REGION

#: What else is priced: a look at the system, and a market with all its trades.
TRY_OUT = Load(users=2, symbols=500, rows=2_000_000)
MARKET = Load(users=10_000, symbols=20_000, rows=90_000_000, trades_gb=10.0)

_HEAD = f"""# What it costs

Made by `python -m deploy.cost --write`; do not edit. A small model (`deploy/cost/`): a load, what each part
must be sized to for it, and prices of {REGION}, on demand, as of {DATE}. Dollars a month. No discount for
promises, no support plan, no tax, no subscription of the vendor's data, nobody's hours.

"""
_PREDECESSOR = f"""## The predecessor

Its own figures are totals, for some users, ten times and a hundred times as many. It told neither how many
the first are nor how parts were sized. Taken are {USERS} users at work at once, so that the hundredfold are
the 1,000 that it aimed at; each asks every 5 s, and follows prices at one message a second. How each part is
sized stands in the last column; prices are today's. A test holds the totals within 25 % of its own.

"""
_OURS = """## Ours, for the same load

The stack of `deploy/aws` at the size `team`.

"""
_WHY = """
It begins above the predecessor, and grows more slowly. What there is from the first user on: Kubernetes for
Flink, NAT and endpoints of a private network, a load balancer, and two servers, so that one may go. The
predecessor's list has none of these; for Flink a managed service is taken, and an API that is paid by the
request. What makes the beginning cheaper: the size `try-out` (no endpoints, one server), or Flink without
Kubernetes.

"""
_SIZES = """## The three sizes

| | for | dollars |
|---|---|---|
"""
_WEAK = """
## What it does not know

- Servers and WebSockets are sized by what was [measured](benchmarks-serving.md) on two cores of one machine,
  taken to grow in proportion, at half their load. Nothing here was run on AWS.
- Flink's machines are not derived from the load: one of two cores for a team, four of eight for a market.
- CloudFront's and S3's steps of price for large amounts are left out: large bills are a little too high.
- The lake grows: ticks of one year are counted. DynamoDB is bounded by the rate that the stream is told
  (`--dynamodb-rate`), not by the market.
- Data between zones is left out.

## Prices

"""


def render() -> str:
    """Return the document."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    yield _PREDECESSOR
    theirs = [predecessor.bill(load_of(times)) for times in STATED]
    yield _bills(theirs, "of the hundredfold")
    yield "".join(f"| *its own figure* |{''.join(f' *{dollars:,.0f}* |' for dollars in STATED.values())} |\n")
    yield "| *differs by* |"
    for bill, stated in zip(theirs, STATED.values(), strict=True):
        yield f" *{total(bill) / stated - 1:+.0%}* |"
    yield " |\n\n"
    yield _OURS
    yield _bills([ours.bill(load_of(times), ours.SIZES["team"]) for times in STATED], "of the hundredfold")
    yield _WHY
    yield _SIZES
    for name, what, load in (
        ("try-out", "2 users, 500 symbols' minutes", TRY_OUT),
        ("team", f"{USERS} users, 5,350 symbols' minutes", load_of(1)),
        ("market", "10,000 users, 20,000 symbols, all US trades", MARKET),
    ):
        yield f"| `{name}` | {what} | {total(ours.bill(load, ours.SIZES[name])):,.0f} |\n"
    yield "\n"
    yield _bills([ours.bill(MARKET, ours.SIZES["market"])], "of the market", heads=("market",))
    yield _WEAK
    memory = sum(price.source == MEMORY for price in PRICES.values())
    yield f"{memory} of {len(PRICES)} are {MEMORY}: see AWS's own pages before you trust one of them.\n\n"
    yield "| | dollars | a | source |\n|---|---|---|---|\n"
    for name, price in PRICES.items():
        yield f"| `{name}` | {_dollars(price.dollars)} | {price.unit} | {price.source} |\n"


def _bills(bills: list[list[Part]], last: str, heads: tuple[str, ...] = ()) -> str:
    """Return a table with a line a part and a column a bill; notes are of the last one."""
    heads = heads or tuple("first users" if times == 1 else f"× {times}" for times in STATED)
    lines = [f"| |{''.join(f' {head} |' for head in heads)} sized, {last} |", "|---" * (len(heads) + 2) + "|"]
    for parts in zip(*bills, strict=True):
        lines.append(
            f"| {parts[0].name} |{''.join(f' {part.dollars:,.0f} |' for part in parts)} {parts[-1].note} |"
        )
    lines.append(f"| **together** |{''.join(f' **{total(bill):,.0f}** |' for bill in bills)} |")
    return "\n".join(lines) + "\n"


def _dollars(value: float) -> str:
    if value >= 1e-3:
        return f"{value:g}"
    return f"{value * 1e6:g} a million"
