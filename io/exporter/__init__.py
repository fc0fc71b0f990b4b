"""What Prometheus is told of the pipelines by a process beside them: ``docs/metrics.md``."""
