"""The schema, by alembic: ``versions/`` holds one step a module, each as it was when it was released."""
