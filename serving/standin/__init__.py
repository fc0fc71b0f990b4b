"""The vendor stand-in: the vendor's surface over a lake, its live feed, and faults to order."""
