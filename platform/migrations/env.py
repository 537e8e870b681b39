"""Run by Alembic: migrates on the connection, and inside the transaction, that
`platform/migrate.py` hands in.
"""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,  # also true of SQLite, as long as the driver does not commit by itself
)
with context.begin_transaction():
    context.run_migrations()
