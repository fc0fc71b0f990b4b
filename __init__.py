"""Fibflow: OHLCV bars that are the same in a backtest as live."""

__version__ = "0.1.0"
