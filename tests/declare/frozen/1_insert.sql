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
  before oid := pg_catalog.to_regprocedure(place || E'."pubsub_comment_insert"()')::oid;
  head text;
  note text;
BEGIN
  IF place IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = E'outbox table pubsub_outbox is not there, so nothing can be captured. Create it before the triggers.';
  END IF;
  EXECUTE 'CREATE OR REPLACE FUNCTION ' || place || E'."pubsub_comment_insert"()'
    || ' RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
    || ' SET search_path = pg_catalog, ' || coalesce(path, '') || 'pg_temp'
    || ' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = ''1'' SET standard_conforming_strings = ''on'' SET jit = ''off'' AS ' || pg_catalog.quote_literal(E'-- sqla-pubsub {"listeners":["email_author"],"operation":"INSERT","table":"comment"}
#variable_conflict use_column
BEGIN
  INSERT INTO ' || outbox || E'
    (listener, operation, source, key, old_key, old, new, context, format)
  SELECT ''email_author'',
    ''INSERT'',
    ''comment'',
    NULL,
    NULL,
    NULL,
    pg_catalog.row_to_json(new.*),
    (SELECT nullif(pg_catalog.current_setting(''sqla_pubsub.context'', true), '''')::json),
    1
  FROM new_rows AS new;
  IF FOUND THEN
    IF coalesce(pg_catalog.current_setting(''sqla_pubsub.notify'', true), '''') <> ''off'' THEN
      IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)) THEN
        PERFORM pg_catalog.pg_notify(''sqla_pubsub_'' || pg_catalog.to_hex(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)), '''');
      END IF;
    END IF;
  END IF;
  RETURN NULL;
END');
  EXECUTE 'REVOKE ALL ON FUNCTION ' || place || E'."pubsub_comment_insert"()' || ' FROM PUBLIC' || coalesce((
    SELECT pg_catalog.string_agg(DISTINCT ', ' || pg_catalog.quote_ident(r.rolname), '')
    FROM pg_catalog.pg_proc AS p
    CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS a
    JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE p.oid = pg_catalog.to_regprocedure(place || E'."pubsub_comment_insert"()')::oid AND a.grantee <> p.proowner), '')
    || ' CASCADE';
  IF pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') THEN
    head := 'sqla-pubsub since ' || (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c) || ' ';
    note := pg_catalog.obj_description(before, 'pg_proc');
    IF note IS NOT NULL AND NOT pg_catalog.starts_with(note, head) THEN
      note := NULL;
    END IF;
    note := head || (
      (SELECT pg_catalog.jsonb_object_agg(l.name, CASE WHEN before IS NULL OR note IS NOT NULL
        THEN pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text END)
      FROM pg_catalog.unnest(ARRAY[E'email_author']::text[]) AS l (name))
      || coalesce(pg_catalog.substr(note, pg_catalog.length(head) + 1), '{}')::jsonb)::text;
  END IF;
  EXECUTE 'COMMENT ON FUNCTION ' || place || E'."pubsub_comment_insert"()' || ' IS ' || pg_catalog.quote_nullable(note);
END
$pubsub$;

CREATE OR REPLACE TRIGGER "pubsub_insert" AFTER INSERT ON "comment" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "pubsub_comment_insert"();

DROP TRIGGER IF EXISTS "pubsub_insert" ON "comment";

DROP FUNCTION IF EXISTS "pubsub_comment_insert"();
