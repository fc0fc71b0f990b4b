"""Alerts at full size: the kernel alone, and the whole job."""
