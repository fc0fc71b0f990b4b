"""The vendor's history and reference data, over its official client."""
