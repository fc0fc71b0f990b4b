"""API keys: what one is, where they are kept, and the command that makes them."""
