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
  before oid := pg_catalog.to_regprocedure(place || E'."pubsub_My\011Schema_Order 50\045 ''o'' ""x"" :tag \044pubsub\044_inser_b3a732b3"()')::oid;
  head text;
  note text;
  relation oid := coalesce(pg_catalog.to_regclass(E'"My\011Schema"."Order 50\045 ''o'' ""x"" :tag \044pubsub\044"')::oid, 0);
  cleared text;
  uncleared text;
  texts text;
  missing text;
BEGIN
  IF place IS NULL THEN
    RAISE EXCEPTION USING MESSAGE = E'outbox table pubsub_outbox is not there, so nothing can be captured. Create it before the triggers.';
  END IF;
  SELECT * INTO cleared, uncleared, texts, missing FROM (SELECT
    pg_catalog.quote_literal(pg_catalog.json_object_agg(f.name, NULL::text ORDER BY f.number)
      FILTER (WHERE f.nullable)),
    CASE WHEN pg_catalog.count(*) FILTER (WHERE f.excluded AND f.nullable) <> pg_catalog.cardinality(ARRAY[]::text[])
      THEN 'true' END,
    pg_catalog.string_agg('CASE pg_catalog.num_nonnulls(' || '"' || pg_catalog.replace(f.name, '"', '""') || '"' || ') WHEN 1 THEN pg_catalog.concat(' || '"' || pg_catalog.replace(f.name, '"', '""') || '"' || ') END AS ' || '"' || pg_catalog.replace(f.name, '"', '""') || '"', ', ' ORDER BY f.number)
      FILTER (WHERE f.converted AND NOT f.excluded),
    pg_catalog.string_agg('NULL::pg_catalog.void AS ' || '"' || pg_catalog.replace(f.name, '"', '""') || '"', ', ' ORDER BY f.number)
      FILTER (WHERE f.converted AND NOT f.excluded AND f.name <> ALL (ARRAY[]::text[]))
  FROM (
    SELECT a.attname::text, a.attnum, a.attname = ANY (ARRAY[]::text[]), c.name IS NOT NULL, (t.typtype <> 'd' OR NOT t.typnotnull
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid)
      AND (SELECT b.typtype FROM pg_catalog.pg_type AS b WHERE b.oid = t.typbasetype) <> 'd')
    FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN (WITH RECURSIVE part (name, number, oid) AS (
    SELECT a.attname, a.attnum, a.atttypid FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT part.name, part.number, inside.oid FROM part JOIN pg_catalog.pg_type AS t ON t.oid = part.oid
    CROSS JOIN LATERAL (
      SELECT t.typbasetype WHERE t.typtype = 'd'
      UNION ALL SELECT t.typelem
      WHERE t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc
      UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
      WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) AS inside (oid))
  SELECT DISTINCT part.name FROM part JOIN pg_catalog.pg_type AS t ON t.oid = part.oid
  JOIN pg_catalog.pg_cast AS c ON c.castsource = part.oid
  WHERE c.casttarget = 'pg_catalog.json'::pg_catalog.regtype AND c.castmethod = 'f'
    AND part.oid >= 16384 AND t.typname <> 'hstore' AND t.typtype NOT IN ('c', 'd')
    AND t.typsubscript <> 'pg_catalog.array_subscript_handler'::pg_catalog.regproc) AS c ON c.name = a.attname
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
  ) AS f (name, number, excluded, converted, nullable)
  WHERE f.converted OR f.excluded
  ) AS found;
  EXECUTE 'CREATE OR REPLACE FUNCTION ' || place || E'."pubsub_My\011Schema_Order 50\045 ''o'' ""x"" :tag \044pubsub\044_inser_b3a732b3"()'
    || ' RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
    || ' SET search_path = pg_catalog, ' || coalesce(path, '') || 'pg_temp'
    || ' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = ''1'' SET standard_conforming_strings = ''on'' SET jit = ''off'' AS ' || pg_catalog.quote_literal(E'-- sqla-pubsub {"format":3,"listeners":[{"name":"it''s 100\045 \\\\ \\"sure\\"","when":"new.note = ''50\045\\t\\r\\n'' -- comment"},"é"],"operation":"INSERT","schema":"My\\tSchema","table":"Order 50\045 ''o'' \\"x\\" :tag \044pubsub\044"}
#variable_conflict use_column
BEGIN
  INSERT INTO ' || outbox || E'
    (listener, operation, source, key, old_key, old, new, context, format)
  SELECT pubsub_listener.name,
    ''INSERT'',
    ''My\011Schema.Order 50\045 ''''o'''' "x" :tag \044pubsub\044'',
    NULL,
    NULL,
    NULL,
    pubsub_payload.pubsub_new_json,
    (SELECT nullif(pg_catalog.current_setting(''sqla_pubsub.context'', true), '''')::json),
    1
  FROM new_rows AS new' || CASE WHEN texts IS NOT NULL THEN E'
  CROSS JOIN LATERAL (SELECT pubsub_found.* FROM (SELECT ' || missing || E') AS pubsub_missing
    CROSS JOIN LATERAL (SELECT pubsub_cell.* FROM (SELECT new.*) AS pubsub_row
    CROSS JOIN LATERAL (SELECT pg_catalog.row_to_json(pubsub_text.*) AS pubsub_texts FROM (SELECT ' || texts || E') AS pubsub_text) AS pubsub_cell) AS pubsub_found) AS pubsub_new_cells' ELSE '' END || E'
  CROSS JOIN LATERAL (SELECT ' || CASE WHEN texts IS NOT NULL THEN E'(pg_catalog."left"(' ELSE '' END || E'pg_catalog.row_to_json(' || CASE WHEN cleared IS NOT NULL THEN E'pg_catalog.jsonb_populate_record(' ELSE '' END || E'new.*' || CASE WHEN cleared IS NOT NULL THEN E', ' || cleared || E'::jsonb)' ELSE '' END || E')' || CASE WHEN texts IS NOT NULL THEN E'::text, -1) || '','' || pg_catalog.substr(pubsub_new_cells.pubsub_texts::text, 2))::json' ELSE '' END || E' AS pubsub_new_json OFFSET 0) AS pubsub_payload
  CROSS JOIN LATERAL (VALUES
    (''it''''s 100\045 \\ "sure"'', (new.note = ''50\045\011\015
'' -- comment
    ), false),
    (''é'', true, false)
  ) AS pubsub_listener (name, holds, ordered)
  WHERE pubsub_listener.holds;
  IF FOUND THEN
    IF coalesce(pg_catalog.current_setting(''sqla_pubsub.notify'', true), '''') <> ''off'' THEN
      IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)) THEN
        PERFORM pg_catalog.pg_notify(''sqla_pubsub_'' || pg_catalog.to_hex(pg_catalog.hashtextextended(' || pg_catalog.quote_literal(outbox) || E', 0)), '''');
      END IF;
    END IF;
  END IF;
  RETURN NULL;
END');
  EXECUTE 'REVOKE ALL ON FUNCTION ' || place || E'."pubsub_My\011Schema_Order 50\045 ''o'' ""x"" :tag \044pubsub\044_inser_b3a732b3"()' || ' FROM PUBLIC' || coalesce((
    SELECT pg_catalog.string_agg(DISTINCT ', ' || pg_catalog.quote_ident(r.rolname), '')
    FROM pg_catalog.pg_proc AS p
    CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS a
    JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
    WHERE p.oid = pg_catalog.to_regprocedure(place || E'."pubsub_My\011Schema_Order 50\045 ''o'' ""x"" :tag \044pubsub\044_inser_b3a732b3"()')::oid AND a.grantee <> p.proowner), '')
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
      FROM pg_catalog.unnest(ARRAY[E'it''s 100\045 \\ "sure"', E'é']::text[]) AS l (name))
      || coalesce(pg_catalog.substr(note, pg_catalog.length(head) + 1), '{}')::jsonb)::text;
  END IF;
  EXECUTE 'COMMENT ON FUNCTION ' || place || E'."pubsub_My\011Schema_Order 50\045 ''o'' ""x"" :tag \044pubsub\044_inser_b3a732b3"()' || ' IS ' || pg_catalog.quote_nullable(note);
END
$pubsub$;

CREATE OR REPLACE TRIGGER "pubsub_insert" AFTER INSERT ON "My	Schema"."Order 50% 'o' ""x"" :tag $pubsub$" REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION "pubsub_My	Schema_Order 50% 'o' ""x"" :tag $pubsub$_inser_b3a732b3"();

DROP TRIGGER IF EXISTS "pubsub_insert" ON "My	Schema"."Order 50% 'o' ""x"" :tag $pubsub$";

DROP FUNCTION IF EXISTS "pubsub_My	Schema_Order 50% 'o' ""x"" :tag $pubsub$_inser_b3a732b3"();
