"""Alerts over HTTP and the WebSocket: what owners ask for, what fired, and where it goes."""
