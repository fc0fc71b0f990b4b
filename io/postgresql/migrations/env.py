"""What alembic runs: the steps, within the transaction that ``migrate`` has opened."""

from alembic import context

from fibflow.io.postgresql.migrate import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
