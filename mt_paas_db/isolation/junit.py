"""A report as JUnit XML, as CI servers read it: a test case for each finding."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from mt_paas_db.isolation.verdict import Finding, Report, Verdict


def junit(report: Report) -> str:
    """Return the report as an XML document. What was not run is skipped, with the reason."""
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name="mt_paas_db isolation",
        tests=str(len(report.findings)),
        failures=str(len(list(report.failures()))),
        errors="0",
        skipped=str(sum(_skipped(finding) for finding in report.findings)),
        time=f"{report.seconds:.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (*report.facts, *((f"switched off: {name}", reason) for name, reason in report.switched_off)):
        ET.SubElement(properties, "property", name=name, value=value)
    for finding in report.findings:
        _case(suite, finding)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, finding: Finding) -> None:
    on = str(finding.route) if finding.route else "any"
    case = ET.SubElement(
        suite,
        "testcase",
        classname=f"isolation.{finding.family}.{finding.tier}",
        name=f"{finding.key}[{on}]",
        time=f"{finding.seconds:.3f}",
    )
    if finding.failed:
        failure = ET.SubElement(case, "failure", type=str(finding.verdict), message=_printable(finding.title))
        failure.text = _printable(str(finding))
    elif _skipped(finding):
        ET.SubElement(case, "skipped", message=_printable(f"{finding.verdict}: {finding.reason}"))
    elif finding.reason or finding.seen:
        ET.SubElement(case, "system-out").text = _printable(str(finding))


def _skipped(finding: Finding) -> bool:
    return finding.verdict in {Verdict.NOT_RUN, Verdict.NOT_APPLICABLE}


def _printable(text: str) -> str:
    """Return what XML 1.0 can hold of a text: a name that an attack tried may hold a NUL."""
    return "".join(
        c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000" else "�"
        for c in text
    )
