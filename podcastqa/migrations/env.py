"""Alembic runs on the connection that `database` hands over: inside its write transaction, in the system scope."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=False)
context.run_migrations()
