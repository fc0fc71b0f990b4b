"""Alerts in PostgreSQL: what owners ask for, the job's feed of changes, and the outbox of events. No Beam."""
