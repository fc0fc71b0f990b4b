"""The pure columnar kernel and the thin PTransforms on it."""
