"""What Alembic runs for each upgrade: on the connection that `upgrading` hands it."""

from alembic import context

from ruchu.control.migrations.every_table import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite changes a table by making it anew.
    render_as_batch=True,
)
context.run_migrations()
