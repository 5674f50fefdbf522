DO $pubsub$
DECLARE
  place text := (
    SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_class AS c
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
  EXECUTE 'CREATE OR REPLACE FUNCTION ' || place || E'."pubsub_comment_update"()'
    || ' RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
    || ' SET search_path = pg_catalog, ' || coalesce(path, '') || 'pg_temp'
    || ' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = ''1'' SET standard_conforming_strings = ''on'' SET jit = ''off'' AS ' || pg_catalog.quote_literal(E'-- sqla-pubsub {"key":["a","b"],"listeners":[{"name":"reindex","of":["content","title"],"ordered":true,"when":"new.article_id > 0"}],"operation":"UPDATE","table":"comment"}
#variable_conflict use_column
BEGIN
  INSERT INTO ' || outbox || E'
    (listener, operation, source, key, old_key, old, new, context, format)
  SELECT ''reindex'',
    ''UPDATE'',
    ''comment'',
    pg_catalog.jsonb_build_array(pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(new.*), ''a''), pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(new.*), ''b'')),
    nullif(pg_catalog.jsonb_build_array(pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(old.*), ''a''), pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(old.*), ''b'')), pg_catalog.jsonb_build_array(pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(new.*), ''a''), pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(new.*), ''b''))),
    pg_catalog.row_to_json(old.*),
    pg_catalog.row_to_json(new.*),
    (SELECT nullif(pg_catalog.current_setting(''sqla_pubsub.context'', true), '''')::json),
    1
  FROM (SELECT pubsub_before.pubsub_old, pubsub_after.pubsub_new
    FROM (SELECT pubsub_old, pg_catalog.row_number() OVER () AS position
      FROM (TABLE old_rows) AS pubsub_old) AS pubsub_before
    FULL JOIN (SELECT pubsub_new, pg_catalog.row_number() OVER () AS position
      FROM (TABLE new_rows) AS pubsub_new) AS pubsub_after
    ON pubsub_after.position = pubsub_before.position OFFSET 0) AS pubsub_pair
  CROSS JOIN LATERAL (SELECT (pubsub_pair.pubsub_old).*) AS old
  CROSS JOIN LATERAL (SELECT (pubsub_pair.pubsub_new).*) AS new
  WHERE (old.*) OPERATOR(pg_catalog.*<>) (new.*)
    AND (pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(old.*), ''content'') IS DISTINCT FROM pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(new.*), ''content'') OR pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(old.*), ''title'') IS DISTINCT FROM pg_catalog.jsonb_object_field(pg_catalog.to_jsonb(new.*), ''title'')) AND (new.article_id > 0);
  IF FOUND THEN
    IF coalesce(pg_catalog.current_setting(''sqla_pubsub.notify'', true), '''') <> ''off'' THEN
      IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)) THEN
        PERFORM pg_catalog.pg_notify(''sqla_pubsub_'' || pg_catalog.to_hex(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)), '''');
      END IF;
    END IF;
  END IF;
  RETURN NULL;
END');
  EXECUTE 'REVOKE ALL ON FUNCTION ' || place || E'."pubsub_comment_update"()' || ' FROM PUBLIC' || coalesce((
    SELECT pg_catalog.string_agg(DISTINCT ', ' || pg_catalog.quote_ident(r.rolname), '')
    FROM pg_catalog.pg_proc AS p
    CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS a
    JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE p.oid = pg_catalog.to_regprocedure(place || E'."pubsub_comment_update"()')::oid AND a.grantee <> p.proowner), '')
    || ' CASCADE';
END
$pubsub$;

CREATE OR REPLACE TRIGGER "pubsub_update" AFTER UPDATE ON "comment" REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "pubsub_comment_update"();

DROP TRIGGER IF EXISTS "pubsub_update" ON "comment";

DROP FUNCTION IF EXISTS "pubsub_comment_update"();
