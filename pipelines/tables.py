"""The tables of DynamoDB: ``python -m pipelines.tables``.

Makes those that ``pipelines.stream`` writes and ``python -m serving`` reads, where they are not there: paid
on demand, and with a time to live of a day. A second run does nothing.

    python -m pipelines.tables --dynamodb fibflow-prices
    python -m pipelines.tables --dynamodb fibflow-prices --dynamodb-ticks fibflow-ticks --region us-east-1
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fibflow.io.aws import AwsConfig
from fibflow.io.dynamodb import DynamoError, PriceTable, TickTable
from fibflow.pipelines import cli

_TIMEOUT_S = 10.0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.tables",
        description="Make the tables of DynamoDB that are not there.",
        allow_abbrev=False,
    )
    made.add_argument("--dynamodb", metavar="TABLE", help="of last prices, one item a symbol")
    made.add_argument(
        "--dynamodb-ticks", metavar="TABLE", help="of the last day's prices, by symbol and time"
    )
    cli.add_aws_arguments(made)
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        UsageError: no table is named, or one name for both.
        AwsError, DynamoError: it cannot be made, or is another table.
    """
    args = parser().parse_args(argv)
    if not (args.dynamodb or args.dynamodb_ticks):
        raise cli.UsageError("name a table with --dynamodb, with --dynamodb-ticks, or with both")
    if args.dynamodb == args.dynamodb_ticks:
        raise cli.UsageError(f"{args.dynamodb}: prices and ticks are two tables: give them two names")
    aws = AwsConfig.resolve(
        os.environ, endpoint_url=args.endpoint_url, region=args.region, profile=args.profile
    )
    shown = []
    for kind, name in ((PriceTable, args.dynamodb), (TickTable, args.dynamodb_ticks)):
        if name:
            made = kind(name, aws, timeout_s=_TIMEOUT_S).create_tables()
            shown.append((name, "made" if made else "there already"))
    cli.print_table("DynamoDB", shown)
    return cli.OK


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=(DynamoError,))
