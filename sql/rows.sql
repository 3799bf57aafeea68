-- What the server knows of tables that are to be filled: it is asked, because a migration may have made them
-- otherwise than the models say. Read by the tenant's own role; names resolve on its path.

-- name: relations
SELECT t.name, c.oid::bigint AS oid, c.relkind::text AS kind
  FROM unnest(CAST(:tables AS text[])) t (name)
  JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(t.name)::oid;

-- name: columns
-- `base` is the type below domains and in an array; `typmod` holds its length, or precision and scale.
WITH RECURSIVE layer AS (
    SELECT a.attrelid, a.attnum, a.atttypid AS type, a.atttypmod AS typmod, false AS not_null
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = ANY (CAST(:oids AS bigint[])::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
     UNION ALL
    SELECT l.attrelid, l.attnum,
           CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END,
           CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE l.typmod END,
           l.not_null OR t.typnotnull
      FROM layer l JOIN pg_catalog.pg_type t ON t.oid = l.type
     WHERE t.typtype = 'd' OR t.typcategory = 'A'
)
SELECT a.attrelid::bigint AS oid, a.attname AS name,
       pg_catalog.format_type(b.oid, -1) AS base, l.typmod,
       pg_catalog.format_type(CASE d.typtype WHEN 'd' THEN (
           SELECT i.type FROM layer i JOIN pg_catalog.pg_type it ON it.oid = i.type
            WHERE i.attrelid = a.attrelid AND i.attnum = a.attnum AND it.typtype <> 'd'
            ORDER BY it.typcategory = 'A' DESC LIMIT 1) ELSE a.atttypid END, -1) AS value_type,
       a.attnotnull OR bool_or(l.not_null) OVER (PARTITION BY l.attrelid, l.attnum) AS not_null,
       a.attidentity::text AS identity, a.attgenerated::text AS generated,
       pg_catalog.pg_get_expr(e.adbin, e.adrelid) AS expression
  FROM layer l
  JOIN pg_catalog.pg_type b ON b.oid = l.type AND b.typtype <> 'd' AND b.typcategory <> 'A'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = l.attrelid AND a.attnum = l.attnum
  JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
 ORDER BY a.attrelid, a.attnum;

-- name: checks
-- Those of the table, and those of the domains of its columns: these speak of VALUE.
WITH RECURSIVE domain AS (
    SELECT a.attrelid, a.attname, a.atttypid AS type
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = ANY (CAST(:oids AS bigint[])::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
     UNION ALL
    SELECT d.attrelid, d.attname, t.typbasetype
      FROM domain d JOIN pg_catalog.pg_type t ON t.oid = d.type AND t.typtype = 'd'
)
SELECT k.conrelid::bigint AS oid, k.conname AS name, pg_catalog.pg_get_expr(k.conbin, k.conrelid) AS expression,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS columns,
       false AS of_domain
  FROM pg_catalog.pg_constraint k
 WHERE k.conrelid = ANY (CAST(:oids AS bigint[])::oid[]) AND k.contype = 'c'
 UNION ALL
SELECT d.attrelid::bigint, k.conname, pg_catalog.pg_get_expr(k.conbin, 0), ARRAY[d.attname::text], true
  FROM domain d JOIN pg_catalog.pg_constraint k ON k.contypid = d.type AND k.contype = 'c';

-- name: partitions
-- A row must fit one of a partitioned table's leaves.
SELECT r.oid, string_agg(format('(%s)', pg_catalog.pg_get_partition_constraintdef(t.relid)), ' OR ') AS expression
  FROM unnest(CAST(:oids AS bigint[])) r (oid)
  JOIN pg_catalog.pg_class c ON c.oid = r.oid::oid AND c.relkind = 'p'
 CROSS JOIN LATERAL pg_catalog.pg_partition_tree(c.oid) t
 WHERE t.isleaf AND pg_catalog.pg_get_partition_constraintdef(t.relid) IS NOT NULL
 GROUP BY r.oid;

-- name: keys
-- Which columns a refusal that names a constraint or an index speaks of; expressions and predicates count too.
SELECT k.conrelid::bigint AS oid, k.conname AS name,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS columns
  FROM pg_catalog.pg_constraint k
 WHERE k.conrelid = ANY (CAST(:oids AS bigint[])::oid[]) AND k.contype IN ('c', 'f')
 UNION ALL
SELECT i.indrelid::bigint, c.relname,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = i.indrelid
                AND (a.attnum = ANY (i.indkey)
                     OR a.attnum IN (SELECT d.refobjsubid FROM pg_catalog.pg_depend d
                                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
                                        AND d.refobjid = i.indrelid)))
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = ANY (CAST(:oids AS bigint[])::oid[]) AND (i.indisunique OR i.indisexclusion);
