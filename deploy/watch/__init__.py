"""How Fibflow is watched: Prometheus' rules with their tests, Grafana's dashboards."""
