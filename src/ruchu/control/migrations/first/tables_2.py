"""Tables of revision 0001, part 2."""

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Create them."""
    _run_signs()
    _runs()
    _schedule_progress()
    _schedule_starts()
    _settings()
    _storage_use()
    _storages()
    _summary_mails()
    _tasks()
    _vault_keys()
    _accounts_grants()
    _accounts_identities()
    _accounts_links()
    _accounts_members()
    _accounts_recovery_codes()
    _accounts_sessions()
    _accounts_tokens()
    _alarm_deliveries()
    _alarm_history()


def _run_signs() -> None:
    op.create_table(
        "run_signs",
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("changed_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("ratio", sa.Float(), nullable=True),
        sa.Column("entropy", sa.Float(), nullable=True),
        sa.Column("renamed", sa.BigInteger(), nullable=True),
        sa.Column("removed", sa.BigInteger(), nullable=True),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("standing", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("chain", "run", name=op.f("pk_run_signs")),
    )
    op.create_index("ix_run_signs_chain_at", "run_signs", ["chain", "at"], unique=False)


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("due", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("resource_group", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stop", sa.Boolean(), nullable=False),
        sa.Column("pause", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("started", sa.Text(), nullable=True),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("next_attempt", sa.Text(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_created", "runs", ["created"], unique=False)
    op.create_index(op.f("ix_runs_policy"), "runs", ["policy"], unique=False)
    op.create_index("ix_runs_state", "runs", ["state"], unique=False)


def _schedule_progress() -> None:
    op.create_table(
        "schedule_progress",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("policy", "schedule", name=op.f("pk_schedule_progress")),
    )


def _schedule_starts() -> None:
    op.create_table(
        "schedule_starts",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("due", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_schedule_starts")),
        sa.UniqueConstraint(
            "policy", "lane", "due", name=op.f("uq_schedule_starts_policy_lane_due")
        ),
        sqlite_autoincrement=True,
    )


def _settings() -> None:
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings")),
    )


def _storage_use() -> None:
    op.create_table(
        "storage_use",
        sa.Column("storage", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("free", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("storage", "day", name=op.f("pk_storage_use")),
    )


def _storages() -> None:
    op.create_table(
        "storages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("encrypted", sa.Boolean(), nullable=False),
        sa.Column("resource_group", sa.Text(), nullable=False),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("writers", sa.Integer(), nullable=False),
        sa.Column("readers", sa.Integer(), nullable=False),
        sa.Column("warn_percent", sa.Integer(), nullable=False),
        sa.Column("stop_percent", sa.Integer(), nullable=False),
        sa.Column("free", sa.BigInteger(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("seen", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storages")),
        sa.UniqueConstraint("name", name=op.f("uq_storages_name")),
    )


def _summary_mails() -> None:
    op.create_table(
        "summary_mails",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("html", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("due", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("sent_at", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("kind", "period", "recipient", name=op.f("pk_summary_mails")),
    )
    op.create_index("ix_summary_mails_state_due", "summary_mails", ["state", "due"], unique=False)


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("secrets", sa.JSON(), nullable=False),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("move", sa.Boolean(), nullable=False),
        sa.Column("stop", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("sent", sa.Text(), nullable=True),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_index(op.f("ix_tasks_run"), "tasks", ["run"], unique=False)
    op.create_index(
        "ix_tasks_state_priority_created", "tasks", ["state", "priority", "created"], unique=False
    )


def _vault_keys() -> None:
    op.create_table(
        "vault_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("since", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_vault_keys")),
    )


def _accounts_grants() -> None:
    op.create_table(
        "accounts_grants",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user"],
            ["accounts_users.id"],
            name=op.f("fk_accounts_grants_user"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user", "group", "role", "source", name=op.f("pk_accounts_grants")),
    )
    op.create_index(op.f("ix_accounts_grants_group"), "accounts_grants", ["group"], unique=False)
    op.create_index(op.f("ix_accounts_grants_user"), "accounts_grants", ["user"], unique=False)


def _accounts_identities() -> None:
    op.create_table(
        "accounts_identities",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user"],
            ["accounts_users.id"],
            name=op.f("fk_accounts_identities_user"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_accounts_identities")),
    )
    op.create_index(
        op.f("ix_accounts_identities_user"), "accounts_identities", ["user"], unique=False
    )


def _accounts_links() -> None:
    op.create_table(
        "accounts_links",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("expires", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user"], ["accounts_users.id"], name=op.f("fk_accounts_links_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_accounts_links")),
    )
    op.create_index(op.f("ix_accounts_links_user"), "accounts_links", ["user"], unique=False)


def _accounts_members() -> None:
    op.create_table(
        "accounts_members",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group"], ["accounts_groups.name"], name=op.f("fk_accounts_members_group")
        ),
        sa.PrimaryKeyConstraint("kind", "object", name=op.f("pk_accounts_members")),
    )
    op.create_index(op.f("ix_accounts_members_group"), "accounts_members", ["group"], unique=False)


def _accounts_recovery_codes() -> None:
    op.create_table(
        "accounts_recovery_codes",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user"],
            ["accounts_users.id"],
            name=op.f("fk_accounts_recovery_codes_user"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_accounts_recovery_codes")),
    )
    op.create_index(
        op.f("ix_accounts_recovery_codes_user"), "accounts_recovery_codes", ["user"], unique=False
    )


def _accounts_sessions() -> None:
    op.create_table(
        "accounts_sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False),
        sa.Column("expires", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user"],
            ["accounts_users.id"],
            name=op.f("fk_accounts_sessions_user"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts_sessions")),
        sa.UniqueConstraint("hash", name=op.f("uq_accounts_sessions_hash")),
    )
    op.create_index(
        op.f("ix_accounts_sessions_expires"), "accounts_sessions", ["expires"], unique=False
    )
    op.create_index(op.f("ix_accounts_sessions_user"), "accounts_sessions", ["user"], unique=False)


def _accounts_tokens() -> None:
    op.create_table(
        "accounts_tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("rights", sa.JSON(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("expires", sa.Text(), nullable=False),
        sa.Column("used", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user"],
            ["accounts_users.id"],
            name=op.f("fk_accounts_tokens_user"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_accounts_tokens_hash")),
        sa.UniqueConstraint("user", "name", name=op.f("uq_accounts_tokens_user_name")),
    )
    op.create_index(op.f("ix_accounts_tokens_user"), "accounts_tokens", ["user"], unique=False)


def _alarm_deliveries() -> None:
    op.create_table(
        "alarm_deliveries",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("alarm", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("critical", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("due", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reached", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("sent_at", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["alarm"], ["alarms.id"], name=op.f("fk_alarm_deliveries_alarm"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_alarm_deliveries")),
        sa.UniqueConstraint("id", name=op.f("uq_alarm_deliveries_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_alarm_deliveries_alarm"), "alarm_deliveries", ["alarm"], unique=False)
    op.create_index(
        "ix_alarm_deliveries_channel_sent_at",
        "alarm_deliveries",
        ["channel", "sent_at"],
        unique=False,
    )
    op.create_index(
        "ix_alarm_deliveries_state_due", "alarm_deliveries", ["state", "due"], unique=False
    )


def _alarm_history() -> None:
    op.create_table(
        "alarm_history",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("alarm", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alarm"], ["alarms.id"], name=op.f("fk_alarm_history_alarm"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_alarm_history")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_alarm_history_alarm"), "alarm_history", ["alarm"], unique=False)
