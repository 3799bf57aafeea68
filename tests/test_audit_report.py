"""What the audit hands out: the report and its schema, SARIF, ignores, the script of mends, the command's answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import CatalogMissingError, ConfigurationError, ServerUnavailableError
from mt_paas_db.isolation.audit import (
    RULES,
    Finding,
    Ignore,
    Report,
    Server,
    Severity,
    apply_mends,
    as_sarif,
    audit,
    parse_ignores,
    script,
)
from mt_paas_db.isolation.audit.survey import surveyed
from tests.fleet import Service
from tests.servers.processes import free_port

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((ROOT / "docs/reference/audit.schema.json").read_text())
PAGE = (ROOT / "docs/reference/audit.md").read_text()

RELEASE = "server-advisory # the tests' server is what it is"

# What SARIF 2.1.0 requires of what we write (section numbers as in the standard).
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name", "rules"],
                                "properties": {
                                    "rules": {
                                        "uniqueItems": True,
                                        "items": {
                                            "required": ["id"],
                                            "properties": {
                                                "shortDescription": {"required": ["text"]},
                                                "helpUri": {"type": "string", "pattern": "^https://"},
                                                "defaultConfiguration": {
                                                    "properties": {
                                                        "level": {"enum": ["none", "note", "warning", "error"]}
                                                    }
                                                },
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "results": {
                        "items": {
                            "required": ["message"],
                            "properties": {
                                "message": {"required": ["text"]},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "partialFingerprints": {"additionalProperties": {"type": "string"}},
                                "suppressions": {
                                    "items": {
                                        "required": ["kind"],
                                        "properties": {"kind": {"enum": ["inSource", "external"]}},
                                    }
                                },
                                "locations": {
                                    "items": {
                                        "properties": {
                                            "logicalLocations": {
                                                "items": {"properties": {"fullyQualifiedName": {"type": "string"}}}
                                            }
                                        }
                                    }
                                },
                            },
                        }
                    },
                },
            },
        },
    },
}


def execute(service: Service, statements: str) -> None:
    with service.superuser() as connection:
        connection.execute(statements.encode())


@pytest.fixture
def tenant(fleet: Service) -> str:
    return fleet.manager().get("hallym").placement.schema_name


@pytest.fixture
def faulty(fleet: Service, tenant: str) -> Service:
    """Two faults with a mend that may be applied at once, and one, a view, with a mend that needs a look."""
    execute(
        fleet,
        f"GRANT TEMP ON DATABASE {fleet.database} TO PUBLIC; GRANT SELECT ON {tenant}.note TO PUBLIC; "
        f"SET ROLE {fleet.name}_owner; CREATE VIEW {tenant}.bodies AS SELECT body FROM {tenant}.note",
    )
    return fleet


def without_release(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if not finding.id.startswith("server-")]


def made(**changes: Any) -> Finding:
    plain = {"id": "public-rights", "severity": Severity.HIGH, "cluster": "main", "kind": "table", "object": "a.note"}
    return Finding(**{**plain, "message": "PUBLIC has SELECT on table a.note", **changes})


# -- the report


def test_a_report_is_what_its_schema_says(faulty: Service) -> None:
    ignores = parse_ignores(f"{RELEASE}\nview-definer:*.bodies # an exercise\nfk-crosses # there was one")
    report = audit(faulty.manager(), ignores=ignores)
    document = json.loads(json.dumps(report.as_dict()))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA)
    assert [one["id"] for one in document["findings"] if one["severity"] != "info"] == [
        "database-rights",
        "public-rights",
    ]
    assert {one["id"]: one["reason"] for one in document["ignored"]}["view-definer"] == "an exercise"
    assert "fk-crosses:* # there was one" in document["unused_ignores"]
    assert "view-definer" not in " ".join(document["unused_ignores"])
    assert document["counts"]["high"] == 2
    assert document["clean"] is False
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "more": 1}, SCHEMA)


def test_the_worst_comes_first_and_a_threshold_cuts_the_rest() -> None:
    findings = tuple(made(severity=severity) for severity in Severity)
    report = Report("chat", (Server("main", "18.4", 1),), findings)
    assert [f.severity for f in report.at_least(Severity.MEDIUM).findings] == ["critical", "high", "medium"]
    assert not report.clean
    assert Report("chat", (), (made(severity=Severity.INFO),)).clean
    assert report.counts() == dict.fromkeys(("critical", "high", "medium", "low", "info"), 1)


def test_it_reads_only_and_sees_one_state(fleet: Service, manager: TenantManager) -> None:
    with surveyed(manager.settings, manager._credentials, "main") as survey:
        row = survey.connection.exec_driver_sql(
            "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
        ).one()
    assert tuple(row) == ("repeatable read", "on")


def test_a_server_that_is_down_and_one_without_a_catalog_are_errors(service: Service) -> None:
    with pytest.raises(CatalogMissingError):
        audit(service.manager())
    (cluster,) = service.settings().clusters.values()
    gone = f"postgresql://postgres@127.0.0.1:{free_port()}/nowhere"
    manager = service.manager(clusters={"main": {"app_dsn": cluster.app_dsn, "admin_dsn": gone}})
    with pytest.raises(ServerUnavailableError):
        audit(manager)


# -- ignores


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("public-right:x # why", "does not begin with the id"),
        ("", "does not begin with the id"),
        ("public-rights:x", "without a reason"),
        ("public-rights # ", "without a reason"),
    ],
)
def test_an_ignore_needs_a_rule_and_a_reason(line: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        Ignore.parse(line)


def test_an_ignore_meets_by_glob() -> None:
    parsed = parse_ignores("# all\n\npublic-rights:*.note # read by all\n  policy-open # odd: but so\n")
    assert parsed == [Ignore("public-rights", "*.note", "read by all"), Ignore("policy-open", "*", "odd: but so")]
    assert parsed[0].meets(made())
    assert not parsed[0].meets(made(object="a.notes"))
    assert not parsed[0].meets(made(id="login-rights"))


# -- SARIF


def test_sarif_has_what_the_standard_requires(faulty: Service) -> None:
    report = audit(faulty.manager(), ignores=[Ignore("view-definer", "*", "an exercise")])
    document = json.loads(json.dumps(as_sarif(report)))
    jsonschema.validate(document, SARIF)
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == len(report.findings) + 1
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    (suppressed,) = [result for result in run["results"] if "suppressions" in result]
    assert suppressed["ruleId"] == "view-definer"
    fingerprints = [json.dumps(result["partialFingerprints"]) for result in run["results"]]
    assert len(set(fingerprints)) == len(fingerprints)


# -- mends


def test_the_script_runs_and_leaves_what_needs_a_look(faulty: Service, tenant: str) -> None:
    text = script(audit(faulty.manager()))
    assert f"\nREVOKE SELECT ON TABLE {tenant}.note FROM PUBLIC;\n" in text
    assert f"--   ALTER VIEW {tenant}.bodies SET (security_invoker = true);" in text
    execute(faulty, text)
    assert [f.id for f in without_release(audit(faulty.manager()))] == ["view-definer"]


def test_safe_mends_are_applied_in_one_transaction(faulty: Service) -> None:
    manager = faulty.manager()
    report = audit(manager)
    broken = Report(
        report.installation,
        report.servers,
        (*report.findings, made(mend="REVOKE ALL ON TABLE no.such FROM PUBLIC;", safe=True)),
    )
    with pytest.raises(Exception, match="does not exist"):
        apply_mends(manager, broken)
    assert audit(manager).findings == report.findings
    assert [f.id for f in apply_mends(manager, report)] == ["database-rights", "public-rights"]
    assert [f.id for f in without_release(audit(manager))] == ["view-definer"]


def test_only_what_takes_rights_away_is_safe() -> None:
    """A mend that drops, alters a table or a policy needs a look."""
    destructive = {
        "public-object",
        "stray-schema",
        "stray-role",
        "policy-open",
        "fk-crosses",
        "view-crosses",
        "rls-off",
    }
    assert not {rule.id for rule in RULES.values() if rule.safe} & destructive


# -- the page


def test_the_page_lists_the_rules_as_they_are() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \| \[(?:.+?)\]\((.+?)\) \|$", PAGE, re.M)
    assert [row[0] for row in rows] == list(RULES)
    for id_, severity, title, why, _, source in rows:
        rule = RULES[id_]
        assert (severity, title, why, source) == (str(rule.severity), rule.title, rule.why, rule.source), id_


# -- the command


@pytest.fixture
def mt(faulty: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    pytest.importorskip("typer", reason="extra 'cli' is not installed")
    from mt_paas_db.cli import main

    for name, value in faulty.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", None)

    def run(*arguments: str, code: int) -> str:
        capsys.readouterr()
        assert main(["audit", *arguments]) == code, capsys.readouterr()
        return capsys.readouterr().out

    return run


def test_the_command_says_what_is_wrong(mt: Any, tenant: str) -> None:
    out = mt(code=1)
    assert f"PUBLIC has SELECT on table {tenant}.note" in out
    assert "REVOKE TEMPORARY ON DATABASE" in out
    assert re.search(r"^not clean: 2 high, \d medium.* \(2 tenants on main\)$", out, re.M)
    assert "view-definer" not in mt("--severity", "high", code=1)
    jsonschema.validate(json.loads(mt("--json", code=1)), SCHEMA)


def test_the_command_mends_what_is_safe_when_told_to(mt: Any, tmp_path: Path, faulty: Service) -> None:
    accepted = tmp_path / "accepted"
    accepted.write_text(f"# known\n{RELEASE}\n")
    sarif = tmp_path / "audit.sarif"
    assert mt("--fix", code=1).startswith("-- What mends the installation")
    before = audit(faulty.manager()).findings
    mt("--fix", "--apply", code=3)
    assert "not confirmed" in json.loads(mt("--fix", "--apply", "--json", code=3))["error"]["message"]
    assert audit(faulty.manager()).findings == before
    document = json.loads(
        mt("--fix", "--apply", "--yes", "--json", "--ignore-file", str(accepted), "--sarif", str(sarif), code=1)
    )
    jsonschema.validate(document, SCHEMA)
    assert len(document["applied"]) == 2
    assert [one["id"] for one in document["findings"] if one["severity"] != "info"] == ["view-definer"]
    jsonschema.validate(json.loads(sarif.read_text()), SARIF)
    last = mt("--ignore-file", str(accepted), "--ignore", "view-definer # read by nobody", code=0)
    assert last.splitlines()[-1].startswith("clean")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--severity", "worst"],
        ["--apply"],
        ["--fix", "--yes"],
        ["--ignore", "no-such-rule # why"],
        ["--ignore", "policy-open"],
        ["--ignore-file", "missing"],
        ["--sarif", "/no/such/folder/audit.sarif"],
    ],
)
def test_the_command_refuses_what_it_does_not_understand(mt: Any, arguments: list[str]) -> None:
    mt(*arguments, code=2)
