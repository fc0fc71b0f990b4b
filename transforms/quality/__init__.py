"""What is missing from a lake, what has gone quiet, and which bars cannot be: pure, over whole arrays."""
