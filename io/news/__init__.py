"""News: articles from the vendor into the lake, read by symbol and time, and told as they come."""
