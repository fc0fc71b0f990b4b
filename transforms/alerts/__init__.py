"""Alerts in the stream: what they are, and the kernel that holds them against prices."""
