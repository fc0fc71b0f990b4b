"""What the live store holds and tells."""
