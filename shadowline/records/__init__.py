"""What is live, in SQL: pairs, feedback, rollout. SQLite by default, PostgreSQL by SHADOWLINE_DATABASE_URL."""
