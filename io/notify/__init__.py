"""Events of alerts on their way out of PostgreSQL: to webhooks and to SNS."""
