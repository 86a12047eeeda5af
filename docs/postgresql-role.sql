-- The service's own role on PostgreSQL: it adds to the audit chain, and can neither change nor cut it.
--
--   psql -U owner -d shadowline -v ON_ERROR_STOP=1 -f docs/postgresql-role.sql
--
-- Run it as the owner of the tables after `shadowline audit verify` with the owner's URL has made them, and again after
-- an upgrade; set a password of your own, and put the role into SHADOWLINE_DATABASE_URL. Migrations stay the owner's.

CREATE ROLE shadowline_service LOGIN PASSWORD 'change-me';

GRANT USAGE ON SCHEMA public TO shadowline_service;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO shadowline_service;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO shadowline_service;

GRANT INSERT ON audit_entries TO shadowline_service;
GRANT INSERT, DELETE ON audit_notes TO shadowline_service;

GRANT INSERT, UPDATE ON pairs, feedback, models, rollout_events, rollout_actions, rollout_orders, rollout_approvals,
    rollout_refusals, rollout_evidence TO shadowline_service;
GRANT INSERT, UPDATE, DELETE ON champions, rollout_classes TO shadowline_service;
