"""Parts of the benchmark of the live feed: a light vendor, a light Kinesis, the process between them."""
