"""A report as one HTML file: attacks down, tiers and routes across; nothing is fetched from anywhere."""

from __future__ import annotations

from html import escape
from itertools import groupby

from mt_paas_db.isolation.attack import FAMILIES, Attack, Tier
from mt_paas_db.isolation.catalogue import CATALOGUE
from mt_paas_db.isolation.route import Route
from mt_paas_db.isolation.verdict import Finding, Report, Verdict

_MARK = {
    Verdict.HELD: "held",
    Verdict.LEAKED: "LEAKED",
    Verdict.OPEN: "open",
    Verdict.ASTRAY: "astray",
    Verdict.NOT_RUN: "–",
    Verdict.NOT_APPLICABLE: "n/a",
}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; padding: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: Canvas; font-weight: 600; }
td.v { text-align: center; white-space: nowrap; } .key { font-family: ui-monospace, monospace; white-space: nowrap; }
.held { color: #1a7f37; } .leaked, .astray { background: #cf222e; color: #fff; font-weight: 700; }
.open { color: #9a6700; font-weight: 600; } .not-run, .not-applicable { color: #8889; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
.verdict { font-size: 1.15rem; font-weight: 700; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1rem; }
dd { margin: 0; } details { margin: .3rem 0; } summary { cursor: pointer; }
"""


def html(report: Report) -> str:
    """Return the report as a self-contained HTML document."""
    verdict = "Every promise was held." if report.ok else "A promise was broken, or nothing was proven."
    counts = ", ".join(f"{number} {verdict}" for verdict, number in report.counts().items() if number)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Isolation: {'held' if report.ok else 'NOT HELD'}</title><style>{_STYLE}</style></head><body>",
        "<h1>Isolation suite</h1>",
        f"<p class='verdict {'held' if report.ok else 'leaked'}'>{verdict}</p>",
        f"<p>{counts}; {report.seconds:.1f} s</p>",
        _facts(report),
        *_failures(report),
        *_tables(report),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _facts(report: Report) -> str:
    rows = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts]
    rows += [f"<dt>switched off</dt><dd>{escape(name)}: {escape(why)}</dd>" for name, why in report.switched_off]
    return f"<dl>{''.join(rows)}</dl>"


def _failures(report: Report) -> list[str]:
    failures = list(report.failures())
    return ["<h2>What failed</h2>", *(f"<pre>{escape(str(finding))}</pre>" for finding in failures)] if failures else []


Column = tuple[Tier, Route]


def _tables(report: Report) -> list[str]:
    columns: list[Column] = sorted({(f.tier, f.route) for f in report.findings if f.route}, key=str)
    head = "".join(f"<th>{tier}<br><small>{route}</small></th>" for tier, route in columns)
    texts = {attack.key: attack for attack in CATALOGUE}
    parts: list[str] = []
    for family, found in groupby(sorted(report.findings, key=lambda f: list(FAMILIES).index(f.family)), _family):
        by_key: dict[str, list[Finding]] = {}
        for finding in found:
            by_key.setdefault(finding.key, []).append(finding)
        parts.append(f"<h2>{family}. {FAMILIES[family]}</h2>")
        parts.append(f"<table><thead><tr><th>Attack</th>{head}</tr></thead><tbody>")
        parts += [_row(findings, columns, texts.get(key)) for key, findings in by_key.items()]
        parts.append("</tbody></table>")
    return parts


def _family(finding: Finding) -> str:
    return finding.family


def _row(findings: list[Finding], columns: list[Column], attack: Attack | None) -> str:
    first = findings[0]
    name = f"<span class='key'>{escape(first.key)}</span> {escape(first.title)}"
    if attack is None and first.route is None:
        return f"<tr><td>{name}</td><td colspan='{max(len(columns), 1)}'>{escape(first.reason)}</td></tr>"
    reasons = {f"{f.verdict}: {f.reason}" for f in findings if f.reason and f.verdict is not Verdict.HELD}
    notes = "".join(f"<p>{escape(reason)}</p>" for reason in sorted(reasons))
    text = notes
    if attack is not None:
        text = f"<p>{escape(attack.does)}</p><pre>{escape(attack.sql)}</pre><p>{escape(attack.why_held)}</p>{notes}"
    by_column = {(finding.tier, finding.route): finding for finding in findings}
    cells = [_cell(by_column.get(column)) for column in columns]
    return f"<tr><td><details><summary>{name}</summary>{text}</details></td>{''.join(cells)}</tr>"


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return "<td></td>"
    kind = str(finding.verdict).replace(" ", "-")
    hint = escape("\n".join([finding.reason, *finding.seen]).strip(), quote=True)
    return f"<td class='v {kind}' title='{hint}'>{_MARK[finding.verdict]}</td>"
