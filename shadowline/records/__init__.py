"""The records in SQL: pairs, feedback, rollout, audit log. SQLite by default, PostgreSQL by SHADOWLINE_DATABASE_URL."""
