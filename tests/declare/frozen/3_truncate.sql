DO $pubsub$
DECLARE
  place text := (
    SELECT CASE WHEN n.nspname ~ '^[a-z_][a-z0-9_]*$' AND NOT EXISTS (SELECT FROM pg_catalog.pg_get_keywords() AS k WHERE k.word = n.nspname AND k.catcode <> 'U') THEN n.nspname::text ELSE '"' || pg_catalog.replace(n.nspname::text, '"', '""') || '"' END FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass(E'"pubsub_outbox"')::oid);
  outbox text := place || E'."pubsub_outbox"';
  path text := (
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s::text) || ', ', '' ORDER BY i)
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS p (s, i)
    WHERE s <> 'pg_catalog' AND NOT pg_catalog.starts_with(s::text, 'pg_temp_'));
BEGIN
  IF place IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = E'outbox table pubsub_outbox is not there, so nothing can be captured. Create it before the triggers.';
  END IF;
  EXECUTE 'CREATE OR REPLACE FUNCTION ' || place || E'."pubsub_comment_truncate"()'
    || ' RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
    || ' SET search_path = pg_catalog, ' || coalesce(path, '') || 'pg_temp'
    || ' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = ''1'' SET standard_conforming_strings = ''on'' SET jit = ''off'' AS ' || pg_catalog.quote_literal(E'-- sqla-pubsub {"format":3,"listeners":["email_author"],"operation":"TRUNCATE","table":"comment"}
#variable_conflict use_column
BEGIN
  INSERT INTO ' || outbox || E'
    (listener, operation, source, key, old_key, old, new, context, format)
  SELECT ''email_author'',
    ''TRUNCATE'',
    ''comment'',
    NULL,
    NULL,
    NULL,
    NULL,
    (SELECT nullif(pg_catalog.current_setting(''sqla_pubsub.context'', true), '''')::json),
    1;
  IF FOUND THEN
    IF coalesce(pg_catalog.current_setting(''sqla_pubsub.notify'', true), '''') <> ''off'' THEN
      IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)) THEN
        PERFORM pg_catalog.pg_notify(''sqla_pubsub_'' || pg_catalog.to_hex(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)), '''');
      END IF;
    END IF;
  END IF;
  RETURN NULL;
END');
  EXECUTE 'REVOKE ALL ON FUNCTION ' || place || E'."pubsub_comment_truncate"()' || ' FROM PUBLIC' || coalesce((
    SELECT pg_catalog.string_agg(DISTINCT ', ' || pg_catalog.quote_ident(r.rolname), '')
    FROM pg_catalog.pg_proc AS p
    CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS a
    JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE p.oid = pg_catalog.to_regprocedure(place || E'."pubsub_comment_truncate"()')::oid AND a.grantee <> p.proowner), '')
    || ' CASCADE';
END
$pubsub$;

CREATE OR REPLACE TRIGGER "pubsub_truncate" AFTER TRUNCATE ON "comment" FOR EACH STATEMENT EXECUTE FUNCTION "pubsub_comment_truncate"();

DROP TRIGGER IF EXISTS "pubsub_truncate" ON "comment";

DROP FUNCTION IF EXISTS "pubsub_comment_truncate"();
