"""Schemas on the search path of our functions in which roles may create that have no right to act as their owner.

What a condition names without a schema is looked up there, and runs as the owner of the function.

Source: https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, MetaData, text

from sqla_pubsub.contract.quoting import names_of, quoted
from sqla_pubsub.registry import registry_of
from sqla_pubsub.rights import homes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSchema:
    """One such schema.

    Attributes:
        schema: Its name.
        owner: Who owns the functions, and so the role that they run as.
        roles: Who may create there, PUBLIC for everybody; the owner of the schema may.
        revoke: The statement that ends it, None where only the schema's owner may create.
    """

    schema: str
    owner: str
    roles: tuple[str, ...]
    revoke: str | None

    @property
    def found(self) -> str:
        """What was found, for people."""
        roles = ", ".join("everybody" if role == "PUBLIC" else f"role {role}" for role in self.roles)
        return (
            f"{roles} may CREATE in schema {quoted(self.schema)}, which is on the search path of captures: what a "
            f"condition looks up there runs as their owner, {quoted(self.owner)}"
        )

    @property
    def remedy(self) -> str:
        """What to do about it."""
        schema, owner = quoted(self.schema), quoted(self.owner)
        return f"Run: {self.revoke or f'ALTER SCHEMA {schema} OWNER TO {owner};'}"


def open_schemas(connection: Connection, metadata: MetaData) -> list[OpenSchema]:
    """Return the schemas on the path of installed functions in which others may create, by name.

    A condition in SQL, and one on types of extensions, resolves there, and the function runs as its owner.
    """
    registry = registry_of(metadata)
    entry = registry.outbox.Entry.__table__
    home = homes(connection, metadata).get(entry)
    if home is None:
        return []
    rows = connection.execute(_OPEN_SCHEMAS, {"home": home, "prefix": registry.settings.prefix})
    return [
        OpenSchema(
            schema=row.schema,
            owner=row.owner,
            roles=tuple(row.roles),
            revoke=f"REVOKE CREATE ON SCHEMA {quoted(row.schema)} FROM {', '.join(row.granted)};"
            if row.granted
            else None,
        )
        for row in rows
    ]


# Superusers, and members of the role that owns the function, can act as it anyway.
_OPEN_SCHEMAS = text(
    f"""
    WITH functions AS (
      SELECT DISTINCT p.proowner, substr(setting, length('search_path=') + 1) AS path
      FROM pg_catalog.pg_proc AS p
      JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
      CROSS JOIN LATERAL unnest(p.proconfig) AS setting
      WHERE n.nspname = :home AND p.prosecdef AND starts_with(p.prosrc, '-- sqla-pubsub ')
        AND starts_with(p.proname, :prefix) AND starts_with(setting, 'search_path=')
    ), makers AS (
      SELECT DISTINCT f.proowner, n.nspname, n.nspowner,
        CASE WHEN g.rolname = 'pg_database_owner' THEN d.datdba ELSE a.grantee END AS grantee, a.grantee AS named
      FROM functions AS f
      JOIN pg_catalog.pg_namespace AS n
        ON n.nspname IN (SELECT s.name FROM ({names_of("f.path")}) AS s)
      JOIN pg_catalog.pg_database AS d ON d.datname = current_database()
      CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
      LEFT JOIN pg_catalog.pg_roles AS g ON g.oid = a.grantee
      WHERE a.privilege_type = 'CREATE' AND n.nspname NOT IN ('pg_catalog', 'pg_temp')
    )
    SELECT m.nspname AS schema, pg_get_userbyid(m.proowner) AS owner,
      array_agg(DISTINCT CASE m.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END) AS roles,
      array_agg(DISTINCT CASE m.named WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(m.named)) END)
        FILTER (WHERE m.named <> m.nspowner) AS granted
    FROM makers AS m LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = m.grantee
    WHERE m.grantee = 0 OR NOT (r.rolsuper OR pg_has_role(m.grantee, m.proowner, 'MEMBER'))
    GROUP BY m.nspname, m.proowner
    ORDER BY m.nspname
    """
)
