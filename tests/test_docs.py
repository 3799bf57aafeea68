"""Every code block of README.md and docs/ runs, in order, page by page, against a service of its own.

`tests.pages` says how to write blocks.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from mt_paas_db.core import TenantManager
from tests.fleet import PASSWORD, Service
from tests.pages import ROOT, DocsError, PageRun, read_blocks
from tests.servers import PostgresServer

PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
MOST_SKIPPED = 5


# -- the pages


@pytest.fixture
def docs_service(server: PostgresServer) -> Iterator[Service]:
    """A service with the name that the pages use; on a server that is not ours, with a name nobody has."""
    made = Service(server) if "MT_PAAS_TEST_DSN" in os.environ else Service(server, name="llm_chatbot")
    yield made
    made.close()


WITHOUT_TENANTS = {"zero-downtime.md", "recover-a-run.md"}
"""Pages that create hallym and korea themselves, from their own revisions."""


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_page_runs(page: Path, docs_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in docs_service.environment().items():
        monkeypatch.setenv(name, value)
    models = "llm_chatbot.models:Base" if importlib.util.find_spec("llm_chatbot") else "tests.models:Base"
    monkeypatch.setenv("MT_PAAS_DB_MODELS", models)

    def run_sql(text: str) -> None:
        with docs_service.superuser() as connection:
            connection.execute(text.encode())

    with ExitStack() as stack:
        if page.name == "managed-postgresql.md":
            admin = stack.enter_context(docs_service.managed())
            dsn = docs_service.server.dsn(docs_service.database, user=admin, password=PASSWORD)
            monkeypatch.setenv("MT_PAAS_DB_CLUSTERS__MAIN__ADMIN_DSN", dsn)
        if ROOT / "docs" / "tutorial" not in page.parents:
            manager = TenantManager()
            manager.init()
            for tenant_id in () if page.name in WITHOUT_TENANTS else ("hallym", "korea"):
                manager.create(tenant_id)
            manager.close()
        run = stack.enter_context(PageRun(tmp_path, monkeypatch, run_sql))
        for block in read_blocks(page):
            run.run(block)


def test_there_is_a_front_page_to_the_docs() -> None:
    assert not PAGES or ROOT / "README.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_to_files_lead_somewhere(page: Path) -> None:
    inline = [child for token in MarkdownIt().parse(page.read_text()) for child in token.children or []]
    links = [str(child.attrs.get("href") or child.attrs.get("src") or "") for child in inline]
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [file for file in files if not (page.parent / file).exists()] == []


def test_few_blocks_are_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [f"{b}: {b.directives['skip']}" for page in PAGES for b in read_blocks(page) if "skip" in b.directives]
    if skipped:
        with capsys.disabled():
            print("\nblocks of the docs that do not run:", *skipped, sep="\n  ")
    assert len(skipped) <= MOST_SKIPPED, skipped


# -- the runner itself

GOOD = """
```python
from dataclasses import dataclass

@dataclass
class Box:
    content: "Box | None" = None
```
In a list, and asynchronous:

1. first
   ```python
   import asyncio

   await asyncio.sleep(0)
   async with asyncio.timeout(5):
       box = Box(Box())
   ```
<!-- docs: raises LookupError -->
```python
{}[box.content.content]
```
<!-- docs: file shop/stock.py -->
```python
import os, sys

apples = 3
if __name__ == "__main__":
    sys.exit(int(os.environ["STATUS"]))
```
```python
from shop.stock import apples

assert apples == 3
```
```console
$ export STATUS=4
$ python shop/stock.py   # exit 4
any output
$ make test PG=15
$ pip install 'mt_paas_db[cli,embedded]'
```
```bash
# a comment
export MT_PAAS_DB_CLUSTERS__MAIN__POOLER=pgbouncer \\
  MT_PAAS_DB_POOL_SIZE=7
git clone somewhere
```
```ini
[pgbouncer]
pool_mode = transaction
```
```toml
[project]
name = "shop"
```
```json
{"ok": true}
```
```sql
SELECT nothing checks this
```
<!-- docs: run -->
```sql
SELECT 1
```
<!-- docs: skip: needs a second machine -->
```console
$ reboot
```
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql_run: list[str]) -> Iterator[PageRun]:
    folder = tmp_path / "empty"
    folder.mkdir()
    with PageRun(folder, monkeypatch, sql_run.append) as made:
        yield made


@pytest.fixture
def sql_run() -> list[str]:
    """The SQL that a made-up page had run."""
    return []


def follow(run: PageRun, text: str) -> None:
    page = run.folder.parent / "page.md"
    page.write_text(text)
    for block in read_blocks(page):
        run.run(block)


def test_a_page_in_order_passes(run: PageRun, sql_run: list[str]) -> None:
    follow(run, GOOD)
    assert sql_run == ["SELECT 1\n"]
    assert [line.split(": ")[1] for line in run.skipped] == ["needs a second machine"]
    assert os.environ["MT_PAAS_DB_POOL_SIZE"] == "7"
    assert "MT_PAAS_DB_CLUSTERS__MAIN__POOLER" not in os.environ


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\n\n1 / 0\n```", r"page.md:2: raised ZeroDivisionError, expected None[\s\S]*page.md., line 3"),
        ("```python\nawait asyncio.sleep(0)\n```", "raised NameError"),
        ("```python\nif\n```", "invalid syntax"),
        ("<!-- docs: raises KeyError -->\n```python\n1\n```", "raised nothing, expected KeyError"),
        ("<!-- docs: raises KeyError -->\n```python\n1 / 0\n```", "raised ZeroDivisionError, expected KeyError"),
        ("<!-- docs: file x.py -->\n```python\nif\n```", "invalid syntax"),
        ("<!-- docs: skip -->\n```python\n1\n```", "skipped without a reason"),
        ("<!-- docs: skipp: because -->\n```python\n1\n```", "no instruction for this runner"),
        ("<!-- docs: run -->\nSome text.", "without a block after it"),
        ("<!-- docs: run -->", "without a block after it"),
        ("Some text:\n\n    1 / 0\n", "indented code"),
        ("```\nno language\n```", "no runner for the language ''"),
        ("```rust\nfn main() {}\n```", "no runner for the language 'rust'"),
        ("```console\nmt-paas-db init\n```", "no line begins with"),
        ("```console\n$ curl example.com\n```", "does not know how to run 'curl example.com'"),
        ("```bash\ncurl example.com\n```", "does not know how to run 'curl example.com'"),
        ("```console\n$ mt-paas-db 'tenant\n```", "No closing quotation"),
        ("```console\n$ python missing.py\n```", "exited 2, expected 0"),
        ("```console\n$ make tests\n```", "there is no 'tests'"),
        ("```console\n$ pip install 'mt_paas_db[clii]'\n```", "there is no 'clii'"),
        ("```console\n$ python -m benchmarks sesion\n```", "there is no 'sesion'"),
        ("```console\n$ export MT_PAAS_DB_POOLSIZE=7\n```", "there is no 'poolsize'"),
        ("```console\n$ export MT_PAAS_DB_CLUSTERS__MAIN__DSN=x\n```", "there is no 'dsn'"),
        ("```ini\npool_mode = transaction\n```", "MissingSectionHeaderError"),
        ("```toml\n[project\n```", "TOMLDecodeError"),
        ("```json\n{'ok': true}\n```", "JSONDecodeError"),
    ],
)
def test_a_page_that_is_wrong_fails(run: PageRun, text: str, complaint: str) -> None:
    with pytest.raises(DocsError, match=complaint):
        follow(run, text)


def test_sql_that_the_server_refuses_fails(run: PageRun, service: Service) -> None:
    def run_sql(text: str) -> None:
        with service.superuser() as connection:
            connection.execute(text.encode())

    run.run_sql = run_sql
    follow(run, "```sql\nSELECT 1 / 0\n```")
    with pytest.raises(DocsError, match="division by zero"):
        follow(run, "<!-- docs: run -->\n```sql\nSELECT 1 / 0\n```")


def test_a_command_must_exit_as_the_page_says(run: PageRun) -> None:
    follow(run, "```console\n$ mt-paas-db --help\n$ mt-paas-db --no-such-option  # exit 2\n```")
    with pytest.raises(DocsError, match="exited 2, expected 0"):
        follow(run, "```console\n$ mt-paas-db --no-such-option\n```")
    with pytest.raises(DocsError, match="exited 0, expected 3"):
        follow(run, "```console\n$ mt-paas-db --help  # exit 3\n```")
