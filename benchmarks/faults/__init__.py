"""``make faults``: what breaks in the middle of a live run, and what is left of it."""
