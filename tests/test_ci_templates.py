"""The templates for CI: embedded in their page as they are, and carried out command by command, in order.

The services of a template are this run's server; installing is only checked for what it names; and one attack stands
for all, as the others have tests of their own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mt_paas_db.catalog.settings import load_settings
from tests.fleet import Service
from tests.pages import COMMAND_LINE, ROOT, read_blocks

FOLDER = ROOT / "docs" / "how-to" / "ci"
PAGE = ROOT / "docs" / "how-to" / "isolation-in-ci.md"


@dataclass(frozen=True)
class Template:
    """What one says, whatever the code host: `commands` in order, `kept` files."""

    image: str
    variables: dict[str, str]
    commands: tuple[str, ...]
    kept: frozenset[str]


def github() -> Template:
    (job,) = yaml.safe_load((FOLDER / "github.yml").read_text())["jobs"].values()
    steps: list[dict[str, Any]] = job["steps"]
    uploads = [step["with"] for step in steps if "upload" in step.get("uses", "")]
    return Template(
        image=job["services"]["postgres"]["image"],
        variables=job["env"],
        commands=tuple(line for step in steps for line in step.get("run", "").splitlines()),
        kept=frozenset(name for with_ in uploads for name in (with_.get("path") or with_["sarif_file"]).split()),
    )


def gitlab() -> Template:
    (job,) = yaml.safe_load((FOLDER / "gitlab.yml").read_text()).values()
    (service,) = job["services"]
    return Template(
        image=service["name"],
        variables=job["variables"],
        commands=(*job["before_script"], *job["script"]),
        kept=frozenset({*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]}),
    )


TEMPLATES = {"github": github, "gitlab": gitlab}


@pytest.fixture(params=sorted(TEMPLATES))
def template(request: pytest.FixtureRequest) -> Template:
    return TEMPLATES[request.param]()


@pytest.fixture
def shell(service: Service, tmp_path: Path) -> Any:
    """Carry out a command line as a runner of CI does, with the template's variables, and return what came of it."""
    program = tmp_path / "bin" / "mt-paas-db"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{COMMAND_LINE}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def carry_out(template: Template, line: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            **template.variables,
            **service.environment(),
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "examples"))),
        }
        return subprocess.run(
            ["/bin/sh", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )

    return carry_out


def affordable(line: str) -> str:
    return f"{line} --only A1" if " isolation run " in line else line


def installs(line: str) -> bool:
    return line.startswith("pip install ")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_page_shows_the_file(name: str) -> None:
    shown = [block.text for block in read_blocks(PAGE) if block.language == "yaml"]
    assert (FOLDER / f"{name}.yml").read_text() in shown


def test_it_installs_what_there_is(template: Template) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (line,) = filter(installs, template.commands)
    (asked,) = re.findall(r"mt_paas_db\[(.*?)\]", line)
    assert set(asked.split(",")) <= set(extras)


def test_its_variables_are_settings(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MT_PAAS_DB_")]:
        monkeypatch.delenv(name)
    for name, value in template.variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    main = settings.clusters["main"]
    assert {"INSTALLATION", "MODELS", "CLUSTERS__MAIN__APP_DSN", "CLUSTERS__MAIN__ADMIN_DSN"} == {
        name.removeprefix("MT_PAAS_DB_") for name in template.variables if name.startswith("MT_PAAS_DB_")
    }
    assert (settings.installation, settings.models) == ("llm_chatbot", "llm_chatbot.models:Base")
    for dsn in (main.app_dsn, main.admin_dsn):
        assert dsn is not None
        assert dsn.get_secret_value().endswith(f"/{template.variables.get('POSTGRES_DB', 'llm_chatbot')}")
    assert template.image.startswith("postgres:")


def test_its_commands_work_and_leave_what_it_keeps(template: Template, shell: Any, tmp_path: Path) -> None:
    commands = [line for line in template.commands if not installs(line)]
    assert {" ".join(shlex.split(line)[1:3]) for line in commands} >= {"isolation run", "tenant create"}
    for line in commands:
        done = shell(template, affordable(line))
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == template.kept
    cases = ET.parse(tmp_path / "isolation.xml").getroot().findall("testsuite/testcase")
    assert {case.get("name") for case in cases} >= {"A1-qualified-names[psycopg-direct]"}
    sarif = json.loads((tmp_path / "audit.sarif").read_text())
    assert sarif["version"] == "2.1.0"


def test_it_is_red_where_a_migration_opens_a_tenant(template: Template, shell: Any, service: Service) -> None:
    *before, audit = [line for line in template.commands if not installs(line) and " isolation run " not in line]
    for line in before:
        assert shell(template, line).returncode == 0, line
    with service.superuser() as su:
        su.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{service.name}_ci_one_1" TO PUBLIC'.encode())
    done = shell(template, audit)
    assert done.returncode == 1, done.stdout + done.stderr


def test_it_is_red_where_an_attack_is_not_known(template: Template, shell: Any) -> None:
    (line,) = [line for line in template.commands if " isolation run " in line]
    assert shell(template, f"{line} --only Z9").returncode == 2
