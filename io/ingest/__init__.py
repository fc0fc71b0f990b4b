"""The live feed: from the vendor's WebSocket to Kinesis, through a spool on disk."""
