"""The steps. A released one is never changed: what comes later is a step of its own.

Beside alembic's names a step has ``HOLDS``: the tables whose rows its ``downgrade`` throws away.
"""
