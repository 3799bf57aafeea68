-- What a schema is made of, without its own name, its tenant role's name, and whatever differs between two schemas
-- made alike: identifiers of the server, positions of columns and sequences, rows, statistics, comments, storage.
--
-- In O(tenant): pg_depend is indexed by what is depended on, so a namespace leads to its objects; pg_class is not
-- indexed by namespace. Whatever belongs to a relation is found through the index that its own catalog has on it.
-- What there is of many is looked up at once: an index scan for an array costs a third of one scan for each. What
-- belongs to extensions is little, and read once for all tenants of a query.

-- name: objects
-- Bound are the names of the schema, of the tenant's role and of Alembic's table, which is left out; all are texts.
-- No row at all: there is no such schema.
-- The server prints names as its search_path says, so the path is set here and set back. The other way, by the
-- caller, costs more than all the rest: a prepared statement is planned anew whenever it meets another path. The
-- order holds because each step needs what the one before returns: `pinned` gives the oid that everything starts
-- from, and `released` the count of all that was found. The schema stands before pg_catalog, so that a name of
-- its own is never hidden, and never printed with the schema.
-- What remains of the names is text that people wrote (bodies, literals, SET search_path) and what the server always
-- qualifies: there a whole word that is the name becomes <schema> or <role>, quoted or not; a part of a longer
-- identifier is no whole word. So text that names its own schema equals text that names its own, and neither
-- what names another's nor what names none.
WITH pinned AS MATERIALIZED (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl, n.path_before,
           set_config('search_path', quote_ident(n.nspname) || ', pg_catalog, pg_temp', true) AS path,
           '(?<![\w$])("' || regexp_replace(replace(n.nspname, '"', '""'), '(\W)', '\\\1', 'g') || '"|'
                          || regexp_replace(n.nspname, '(\W)', '\\\1', 'g') || ')(?![\w$])' AS schema_word,
           '(?<![\w$])("' || regexp_replace(replace(n.role, '"', '""'), '(\W)', '\\\1', 'g') || '"|'
                          || regexp_replace(n.role, '(\W)', '\\\1', 'g') || ')(?![\w$])' AS role_word,
           split_part(n.nspname, '"', 1) AS schema_sign, split_part(n.role, '"', 1) AS role_sign,
           n.role, n.role || '=' AS grantee, '"' || replace(n.role, '"', '""') || '"=' AS quoted_grantee
      FROM (SELECT oid, nspname::text, nspowner, nspacl, current_setting('search_path') AS path_before,
                   CAST(:role AS text) AS role
              FROM pg_catalog.pg_namespace
             WHERE nspname = CAST(:schema AS text)
            OFFSET 0) n
), own AS MATERIALIZED (
    SELECT d.classid, d.objid
      FROM pinned p
      JOIN pg_catalog.pg_depend d
        ON d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = p.oid
     WHERE (d.classid, d.objid) NOT IN (SELECT e.classid, e.objid
                                          FROM pg_catalog.pg_depend e
                                         WHERE e.refclassid = 'pg_catalog.pg_extension'::regclass
                                           AND e.deptype = 'e')
), named AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind
      FROM pg_catalog.pg_class c
     WHERE c.oid = ANY (ARRAY(SELECT o.objid FROM own o WHERE o.classid = 'pg_catalog.pg_class'::regclass))
       AND c.relname <> CAST(:version_table AS text)
), relation AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relkind, quote_ident(c.relname) AS ident, c.relpersistence, c.reloptions, c.relowner,
           c.relacl, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.relispartition, c.relpartbound,
           c.reloftype, c.relhasindex, c.relhastriggers, c.relhasrules
      FROM pg_catalog.pg_class c
     WHERE c.oid = ANY (ARRAY(SELECT n.oid FROM named n WHERE {in_scope}))
), btree AS MATERIALIZED (
    SELECT array_agg(c.oid) AS default_classes
      FROM pg_catalog.pg_opclass c
     WHERE c.opcdefault AND c.opcmethod = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'btree')
), object AS MATERIALIZED (
{in_relations}

     UNION ALL
{besides}
), access AS MATERIALIZED (  -- once for each list there is: most are alike
    SELECT l.acl, 'GRANTS ' || coalesce((
               SELECT string_agg(g.grant, ', ' ORDER BY g.grant COLLATE "C")
                 FROM (SELECT CASE WHEN starts_with(a, p.grantee) THEN '<role>' || substr(a, length(p.grantee))
                                   WHEN starts_with(a, p.quoted_grantee)
                                   THEN '<role>' || substr(a, length(p.quoted_grantee))
                                   ELSE a END AS grant
                         FROM unnest(CAST(l.acl AS text[])) a) g), 'NONE') AS grants
      FROM (SELECT DISTINCT acl FROM object WHERE acl IS NOT NULL) l
     CROSS JOIN pinned p
), granted AS (
    SELECT o.kind, o.name, o.relation, p.schema_word, p.role_word, p.schema_sign, p.role_sign,
           CASE WHEN o.acl IS NULL THEN coalesce(o.definition, '')
                ELSE concat_ws(' ', nullif(o.definition, ''), (SELECT x.grants FROM access x WHERE x.acl = o.acl))
           END AS definition
      FROM object o
     CROSS JOIN pinned p
    OFFSET 0
), found AS MATERIALIZED (
    SELECT g.kind, g.name, g.relation,
           CASE WHEN strpos(g.definition, g.schema_sign) = 0 AND strpos(g.definition, g.role_sign) = 0
                THEN g.definition
                ELSE regexp_replace(regexp_replace(g.definition, g.schema_word, '<schema>', 'g'),
                                    g.role_word, '<role>', 'g') END AS definition
      FROM granted g
), released AS MATERIALIZED (
    SELECT set_config('search_path', p.path_before, true)
      FROM pinned p
     CROSS JOIN (SELECT count(*) AS objects FROM found) f
     WHERE f.objects > 0
)
SELECT f.kind, f.name, f.definition, f.relation
  FROM found f
 CROSS JOIN released
 ORDER BY f.kind COLLATE "C", f.name COLLATE "C", f.definition COLLATE "C";

-- name: in_relations
-- What belongs to a relation, with the relation's name.
    SELECT CASE r.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view'
                          WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE r.relkind::text END AS kind,
           r.ident AS name,
           concat_ws(' ',
               CASE r.relpersistence WHEN 'u' THEN 'UNLOGGED' WHEN 't' THEN 'TEMPORARY' END,
               CASE WHEN r.relkind = 'p' THEN 'PARTITION BY ' || pg_catalog.pg_get_partkeydef(r.oid) END,
               CASE WHEN r.relispartition THEN 'PARTITION ' || pg_catalog.pg_get_expr(r.relpartbound, 0) END,
               CASE WHEN r.reloftype <> 0 THEN 'OF ' || r.reloftype::regtype END,
               CASE WHEN r.relkind = 'f' THEN
                   (SELECT 'SERVER ' || quote_ident(s.srvname) || coalesce(' OPTIONS ' || f.ftoptions::text, '')
                      FROM pg_catalog.pg_foreign_table f
                      JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
                     WHERE f.ftrelid = r.oid) END,
               CASE WHEN r.reloptions IS NOT NULL THEN
                   (SELECT 'WITH (' || string_agg(w, ', ' ORDER BY w COLLATE "C") || ')'
                      FROM unnest(r.reloptions) w) END,
               CASE WHEN r.relrowsecurity THEN 'ENABLE ROW LEVEL SECURITY' END,
               CASE WHEN r.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
               CASE r.relreplident WHEN 'f' THEN 'REPLICA IDENTITY FULL' WHEN 'i' THEN 'REPLICA IDENTITY INDEX'
                                   WHEN 'n' THEN CASE WHEN r.relkind IN ('r', 'p') THEN 'REPLICA IDENTITY NOTHING' END
               END,
               CASE WHEN r.relkind IN ('v', 'm') THEN 'AS ' || pg_catalog.pg_get_viewdef(r.oid) END) AS definition,
           coalesce(r.relacl, acldefault('r', r.relowner)) AS acl, r.relname AS relation
      FROM relation r
     WHERE r.relkind <> 'S'

     UNION ALL
    SELECT 'inheritance', r.ident || ' of ' || h.inhparent::regclass, h.inhseqno::text, NULL, r.relname
      FROM relation r
      JOIN pg_catalog.pg_inherits h ON h.inhrelid = r.oid
     WHERE r.relkind IN ('r', 'p', 'f')

     UNION ALL
    SELECT 'sequence', r.ident,
           concat_ws(' ', CASE r.relpersistence WHEN 'u' THEN 'UNLOGGED' WHEN 't' THEN 'TEMPORARY' END,
                     'AS', s.seqtypid::regtype, 'START', s.seqstart, 'INCREMENT', s.seqincrement, 'MINVALUE', s.seqmin,
                     'MAXVALUE', s.seqmax, 'CACHE', s.seqcache, CASE WHEN s.seqcycle THEN 'CYCLE' END,
                     (SELECT 'OWNED BY ' || a.attrelid::regclass || '.' || quote_ident(a.attname)
                        FROM pg_catalog.pg_depend d
                        JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                       WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = r.oid AND d.objsubid = 0
                         AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i'))),
           coalesce(r.relacl, acldefault('s', r.relowner)), r.relname
      FROM relation r
      JOIN pg_catalog.pg_sequence s ON s.seqrelid = r.oid
     WHERE r.relkind = 'S'

     UNION ALL  -- a default without columns needs no relation to be printed, which saves opening it
    SELECT 'column', r.ident || '.' || quote_ident(a.attname),
           concat_ws(' ',
               pg_catalog.format_type(a.atttypid, a.atttypmod),
               CASE WHEN a.attcollation NOT IN (0, 'pg_catalog.default'::regcollation)
                    THEN 'COLLATE ' || a.attcollation::regcollation END,
               CASE WHEN a.attnotnull THEN 'NOT NULL' END,
               CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY'
                                  WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END,
               CASE WHEN a.atthasdef THEN
                   (SELECT CASE a.attgenerated WHEN '' THEN 'DEFAULT ' WHEN 's' THEN 'STORED AS ' ELSE 'VIRTUAL AS ' END
                           || pg_catalog.pg_get_expr(d.adbin, CASE a.attgenerated WHEN '' THEN 0 ELSE d.adrelid END)
                      FROM pg_catalog.pg_attrdef d
                     WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) END,
               CASE WHEN a.attfdwoptions IS NOT NULL THEN 'OPTIONS ' || a.attfdwoptions::text END),
           a.attacl, r.relname
      FROM relation r
      JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f')

     UNION ALL  -- NOT NULL is the column's, unless it has more to say; a partition's copy of a foreign key, its table's
    SELECT 'constraint', r.ident || '.' || quote_ident(k.conname), pg_catalog.pg_get_constraintdef(k.oid), NULL, r.relname
      FROM relation r
      JOIN pg_catalog.pg_constraint k ON k.conrelid = r.oid
     WHERE r.relkind IN ('r', 'p', 'f')
       AND k.contype <> 't'
       AND (k.contype <> 'n' OR NOT k.convalidated OR k.connoinherit)
       AND (k.contype <> 'f' OR k.conparentid = 0)

     UNION ALL  -- pg_get_indexdef opens the table, a third of the time of all; a plain B-tree is written without it
    SELECT 'index', quote_ident(c.relname),
           concat_ws(' ',
               CASE WHEN i.indexprs IS NULL AND i.indpred IS NULL AND c.reloptions IS NULL AND c.relkind = 'i'
                         AND i.indnatts = 1 AND i.indoption[0] = 0 AND i.indclass[0] = ANY (b.default_classes)
                    THEN concat(CASE WHEN i.indisunique THEN 'UNIQUE ' END, 'INDEX ON ', r.ident, ' (',
                                (SELECT quote_ident(a.attname)
                                        || CASE WHEN i.indcollation[0] = a.attcollation THEN ''
                                                ELSE ' COLLATE ' || i.indcollation[0]::regcollation END
                                   FROM pg_catalog.pg_attribute a
                                  WHERE a.attrelid = r.oid AND a.attnum = i.indkey[0]), ')',
                                CASE WHEN i.indnullsnotdistinct THEN ' NULLS NOT DISTINCT' END)
                    ELSE pg_catalog.pg_get_indexdef(i.indexrelid, 0, true) END,
               CASE WHEN NOT (i.indisvalid AND i.indisready AND i.indislive) THEN 'INVALID' END,
               CASE WHEN c.relispartition THEN 'ATTACHED' END,
               CASE WHEN i.indisreplident THEN 'REPLICA IDENTITY' END,
               CASE WHEN i.indisclustered THEN 'CLUSTER' END), NULL, r.relname
      FROM relation r
      JOIN pg_catalog.pg_index i ON i.indrelid = r.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
     CROSS JOIN btree b
     WHERE r.relhasindex

     UNION ALL  -- of the triggers that enforce constraints only what was disabled
    SELECT 'trigger', r.ident || '.' || CASE WHEN t.tgisinternal THEN t.tgfoid::regproc::text || ' of '
                                                  || (SELECT quote_ident(k.conname) FROM pg_catalog.pg_constraint k
                                                       WHERE k.oid = t.tgconstraint)
                                             ELSE quote_ident(t.tgname) END,
           concat_ws(' ', CASE WHEN NOT t.tgisinternal THEN pg_catalog.pg_get_triggerdef(t.oid, true) END,
                     CASE t.tgenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'ENABLED REPLICA'
                                      WHEN 'A' THEN 'ENABLED ALWAYS' END), NULL, r.relname
      FROM relation r
      JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid
     WHERE r.relhastriggers
       AND (NOT t.tgisinternal OR t.tgenabled <> 'O')

     UNION ALL
    SELECT 'rule', r.ident || '.' || quote_ident(w.rulename),
           concat_ws(' ', pg_catalog.pg_get_ruledef(w.oid, true),
                     CASE w.ev_enabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'ENABLED REPLICA'
                                       WHEN 'A' THEN 'ENABLED ALWAYS' END), NULL, r.relname
      FROM relation r
      JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid
     WHERE r.relhasrules
       AND w.rulename <> '_RETURN'

     UNION ALL
    SELECT 'policy', r.ident || '.' || quote_ident(y.polname),
           concat_ws(' ', CASE WHEN y.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                     'FOR', CASE y.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                          WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                     'TO', (SELECT string_agg(g.name, ', ' ORDER BY g.name COLLATE "C")
                              FROM (SELECT CASE WHEN m = 0 THEN 'PUBLIC'
                                                WHEN pg_catalog.pg_get_userbyid(m) = p.role THEN '<role>'
                                                ELSE quote_ident(pg_catalog.pg_get_userbyid(m)) END AS name
                                      FROM unnest(y.polroles) m) g),
                     'USING ' || pg_catalog.pg_get_expr(y.polqual, y.polrelid),
                     'WITH CHECK ' || pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid)), NULL, r.relname
      FROM relation r
      JOIN pg_catalog.pg_policy y ON y.polrelid = r.oid
     CROSS JOIN pinned p
     WHERE r.relkind IN ('r', 'p');

-- name: besides
-- What is in no relation.
    SELECT 'schema', '<schema>', NULL,
           coalesce(p.nspacl, acldefault('n', p.nspowner)), NULL
      FROM pinned p

     UNION ALL
    SELECT 'default privileges', CASE WHEN pg_catalog.pg_get_userbyid(a.defaclrole) = p.role THEN '<role>'
                                      ELSE quote_ident(pg_catalog.pg_get_userbyid(a.defaclrole)) END
           || CASE a.defaclobjtype WHEN 'r' THEN ' tables' WHEN 'S' THEN ' sequences' WHEN 'f' THEN ' functions'
                                   WHEN 'T' THEN ' types' ELSE ' ' || a.defaclobjtype::text END, NULL, a.defaclacl, NULL
      FROM own o
      JOIN pg_catalog.pg_default_acl a ON a.oid = o.objid
     CROSS JOIN pinned p
     WHERE o.classid = 'pg_catalog.pg_default_acl'::regclass

     UNION ALL  -- a composite type's columns are compared in order: its values are written by position
    SELECT 'type', quote_ident(t.typname),
           CASE t.typtype
               WHEN 'e' THEN 'ENUM (' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                            FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) || ')'
               WHEN 'd' THEN concat_ws(' ', 'DOMAIN', pg_catalog.format_type(t.typbasetype, t.typtypmod),
                                       CASE WHEN t.typcollation NOT IN (0, 'pg_catalog.default'::regcollation)
                                            THEN 'COLLATE ' || t.typcollation::regcollation END,
                                       CASE WHEN t.typnotnull THEN 'NOT NULL' END,
                                       'DEFAULT ' || pg_catalog.pg_get_expr(t.typdefaultbin, 0))
               WHEN 'c' THEN 'COMPOSITE (' || (
                   SELECT string_agg(concat_ws(' ', quote_ident(a.attname),
                                               pg_catalog.format_type(a.atttypid, a.atttypmod),
                                               CASE WHEN a.attcollation NOT IN (0, 'pg_catalog.default'::regcollation)
                                                    THEN 'COLLATE ' || a.attcollation::regcollation END),
                                     ', ' ORDER BY a.attnum)
                     FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) || ')'
               WHEN 'r' THEN (SELECT concat_ws(' ', 'RANGE', g.rngsubtype::regtype, g.rngcollation::regcollation,
                                               g.rngmultitypid::regtype, g.rngcanonical, g.rngsubdiff,
                                               (SELECT quote_ident(c.opcname) FROM pg_catalog.pg_opclass c
                                                 WHERE c.oid = g.rngsubopc))
                                FROM pg_catalog.pg_range g WHERE g.rngtypid = t.oid)
               ELSE concat_ws(' ', 'BASE', t.typlen, t.typinput, t.typoutput, t.typreceive, t.typsend, t.typdefault)
           END, coalesce(t.typacl, acldefault('T', t.typowner)), NULL
      FROM own o
      JOIN pg_catalog.pg_type t ON t.oid = o.objid
     WHERE o.classid = 'pg_catalog.pg_type'::regclass
       AND t.typtype <> 'm'

     UNION ALL
    SELECT 'constraint', quote_ident(t.typname) || '.' || quote_ident(k.conname),
           pg_catalog.pg_get_constraintdef(k.oid), NULL, NULL
      FROM own o
      JOIN pg_catalog.pg_type t ON t.oid = o.objid
      JOIN pg_catalog.pg_depend d
        ON d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = t.oid
       AND d.classid = 'pg_catalog.pg_constraint'::regclass
      JOIN pg_catalog.pg_constraint k ON k.oid = d.objid
     WHERE o.classid = 'pg_catalog.pg_type'::regclass
       AND t.typtype = 'd'
       AND k.contypid = t.oid
       AND k.contype <> 'n'

     UNION ALL
    SELECT CASE f.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
           f.oid::regprocedure::text,
           CASE WHEN f.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(f.oid)
                ELSE (SELECT concat_ws(' ', pg_catalog.pg_get_function_result(f.oid), a.aggtranstype::regtype,
                                       a.aggmtranstype::regtype, a.aggsortop::regoperator, f.proparallel,
                                       to_jsonb(a) - '{aggfnoid,aggtranstype,aggmtranstype,aggsortop}'::text[])
                        FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = f.oid) END,
           coalesce(f.proacl, acldefault('f', f.proowner)), NULL
      FROM own o
      JOIN pg_catalog.pg_proc f ON f.oid = o.objid
     WHERE o.classid = 'pg_catalog.pg_proc'::regclass

     UNION ALL
    SELECT 'statistics', quote_ident(s.stxname),
           concat_ws(' ', array_to_string(s.stxkind, ''), 'ON', pg_catalog.pg_get_statisticsobjdef_columns(s.oid),
                     'FROM', s.stxrelid::regclass), NULL, NULL
      FROM own o
      JOIN pg_catalog.pg_statistic_ext s ON s.oid = o.objid
     WHERE o.classid = 'pg_catalog.pg_statistic_ext'::regclass

     UNION ALL  -- the rare rest: operators and collations in full, of others that they are there
    SELECT i.type, CASE WHEN o.classid = 'pg_catalog.pg_operator'::regclass THEN o.objid::regoperator::text
                        WHEN starts_with(i.identity, quote_ident(p.nspname) || '.')
                        THEN substr(i.identity, length(quote_ident(p.nspname)) + 2) ELSE i.identity END,
           CASE o.classid
               WHEN 'pg_catalog.pg_operator'::regclass THEN (
                   SELECT concat_ws(' ', q.oprresult::regtype, q.oprcode, q.oprcom::regoperator,
                                    q.oprnegate::regoperator, q.oprrest, q.oprjoin, q.oprcanmerge, q.oprcanhash)
                     FROM pg_catalog.pg_operator q WHERE q.oid = o.objid)
               WHEN 'pg_catalog.pg_collation'::regclass THEN (
                   SELECT (to_jsonb(l) - '{oid,collname,collnamespace,collowner,collversion}'::text[])::text
                     FROM pg_catalog.pg_collation l WHERE l.oid = o.objid)
           END, NULL, NULL
      FROM own o
     CROSS JOIN pinned p
     CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) i
     WHERE o.classid IN ('pg_catalog.pg_operator'::regclass, 'pg_catalog.pg_collation'::regclass,
                         'pg_catalog.pg_opclass'::regclass, 'pg_catalog.pg_opfamily'::regclass,
                         'pg_catalog.pg_conversion'::regclass, 'pg_catalog.pg_ts_config'::regclass,
                         'pg_catalog.pg_ts_dict'::regclass, 'pg_catalog.pg_ts_parser'::regclass,
                         'pg_catalog.pg_ts_template'::regclass);

-- name: contents
-- Instead of `besides`: what there is, by name alone.
    SELECT 'contents', '<schema>', (
               SELECT string_agg(i.name, ', ' ORDER BY i.name COLLATE "C")
                 FROM (SELECT c.relkind::text || ' ' || c.relname::text AS name
                         FROM named c
                        UNION ALL
                       SELECT CASE o.classid
                                  WHEN 'pg_catalog.pg_type'::regclass THEN
                                      (SELECT concat_ws(' ', 'type', t.typname)
                                         FROM pg_catalog.pg_type t WHERE t.oid = o.objid)
                                  WHEN 'pg_catalog.pg_proc'::regclass THEN
                                      (SELECT concat_ws(' ', 'function', f.proname, f.pronargs)
                                         FROM pg_catalog.pg_proc f WHERE f.oid = o.objid)
                                  ELSE o.classid::text END
                         FROM own o
                        WHERE o.classid <> 'pg_catalog.pg_class'::regclass) i), NULL, NULL
      FROM pinned;

-- name: fingerprint
-- One text over all objects, SHA-256 in hexadecimal digits; null: there is no such schema.
SELECT encode(sha256(convert_to(string_agg(concat_ws(chr(31), o.kind, o.name, o.definition), chr(30)), 'UTF8')), 'hex')
       AS fingerprint
  FROM ({objects}) o;
