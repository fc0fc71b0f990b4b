"""What ``benchmarks.stream`` is made of."""
