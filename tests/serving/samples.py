"""Values with which operations of the API answer, over the small lake."""

from __future__ import annotations

#: By the name of the parameter.
SAMPLES = {
    "symbol": "AAPL",
    "symbols": "AAPL",
    "ticker": "AAPL",
    "tickers": "AAPL",
    "timeframe": "5d",
    "timeframes": "1m",
    "multiplier": "1",
    "timespan": "day",
    "from": "2023-12-01",
    "to": "2023-12-20",
    "start": "2023-12-01",
    "end": "2023-12-20",
    "date": "2023-12-20",
    "indicator": "sma",
    "limit": "10",
    "format": "json",
}
#: Where an operation means something else by a name.
OWN = {"GET /v1/exports": {"format": "csv"}, "GET /vX/reference/tickers/{id}/events": {"id": "AAPL"}}
#: Of operations with a body.
BODY = {"symbols": ["AAPL"], "timeframe": "5d"}
#: Operations that have nothing to say of the small lake, which has neither quotes nor ticks: 404.
EMPTY = {"GET /v2/last/nbbo/{ticker}", "GET /v3/trades/{ticker}"}
