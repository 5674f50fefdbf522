DO $pubsub$
DECLARE
  place text := (
    SELECT CASE WHEN n.nspname ~ '^[a-z_][a-z0-9_]*$' AND NOT EXISTS (SELECT FROM pg_catalog.pg_get_keywords() AS k WHERE k.word = n.nspname AND k.catcode <> 'U') THEN n.nspname::text ELSE '"' || pg_catalog.replace(n.nspname::text, '"', '""') || '"' END FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass(E'"events"."shop_outbox"')::oid);
  outbox text := place || E'."shop_outbox"';
  path text := (
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s::text) || ', ', '' ORDER BY i)
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS p (s, i)
    WHERE s <> 'pg_catalog' AND NOT pg_catalog.starts_with(s::text, 'pg_temp_'));
BEGIN
  IF place IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = E'outbox table events.shop_outbox is not there, so nothing can be captured. Create it before the triggers.';
  END IF;
  EXECUTE 'CREATE OR REPLACE FUNCTION ' || place || E'."shop_publish"(name text, payload json)'
    || ' RETURNS void LANGUAGE plpgsql SECURITY DEFINER'
    || ' SET search_path = pg_catalog, ' || coalesce(path, '') || 'pg_temp'
    || ' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = ''1'' SET standard_conforming_strings = ''on'' SET jit = ''off'' AS ' || pg_catalog.quote_literal(E'-- sqla-pubsub {"format":3,"messages":{"viewed":[]},"outbox_schema":"events","prefix":"shop_"}
#variable_conflict use_column
BEGIN
  IF \0441 IS NULL OR \0441 NOT IN (''viewed'') THEN
    RAISE EXCEPTION USING MESSAGE = coalesce(pg_catalog.quote_literal(\0441), ''NULL'') || '' is not a message that the installed migrations know. Run: alembic upgrade head'';
  END IF;
  PERFORM pg_catalog.pg_current_xact_id();
  INSERT INTO ' || outbox || E'
    (listener, operation, source, key, new, context, occurred_at, format)
  SELECT l.listener, ''MESSAGE'', l.message,
    NULL,
    \0442, nullif(pg_catalog.current_setting(''sqla_pubsub.context'', true), '''')::json,
    pg_catalog.clock_timestamp(), 1
  FROM (VALUES
    (NULL, NULL, NULL)
  ) AS l (message, listener, field)
  WHERE l.message = \0441;
  IF FOUND THEN
    IF coalesce(pg_catalog.current_setting(''sqla_pubsub.notify'', true), '''') <> ''off'' THEN
      IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)) THEN
        PERFORM pg_catalog.pg_notify(''sqla_pubsub_'' || pg_catalog.to_hex(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)), '''');
      END IF;
    END IF;
  END IF;
END');
  EXECUTE 'REVOKE ALL ON FUNCTION ' || place || E'."shop_publish"(name text, payload json)' || ' FROM PUBLIC';
END
$pubsub$;

DROP FUNCTION IF EXISTS "events"."shop_publish"(name text, payload json);
