"""The surface that clients of Polygon and Massive know."""
