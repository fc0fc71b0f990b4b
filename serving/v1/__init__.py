"""The API of our own."""
