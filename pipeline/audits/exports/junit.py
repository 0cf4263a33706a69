"""junit.xml: each gate of an audit as a test case, for GitHub, GitLab, Jenkins and the like."""

import io

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from pipeline.audits.gates.verdicts import describe_gate
from pipeline.audits.numbers import show_number
from pipeline.audits.records import AuditRecord, GateVerdict, label_of

CLASS_NAME = "spips.gates"


def to_junit(record: AuditRecord) -> bytes:
    """Return the content of junit.xml: one suite with a test case for each gate and group.

    A broken gate is a failure, one that is not judged is skipped. The name of a case is the same
    every night, so that a server can show its history.
    """
    suite = TestSuite(f"spips audit of {record.run.run_id}")
    suite.timestamp = record.run.finished_at[:19]  # the schema allows no time zone; it is UTC
    # Before the cases, as the schema has it.
    suite.add_property("verdict", record.verdict)
    suite.add_property("run", record.run.uri)
    suite.add_property("model_digest", record.run.model_digest)
    suite.add_testcases([_to_case(gate) for gate in record.gates])
    report = JUnitXml("spips")
    report.add_testsuite(suite)
    report.update_statistics()
    content = io.BytesIO()
    report.write(content, pretty=True)
    return content.getvalue()


def _to_case(gate: GateVerdict) -> TestCase:
    case = TestCase(f"{label_of(gate.group)}: {gate.rule}", CLASS_NAME, time=0)
    if gate.state == "broken":
        failure = Failure(describe_gate(gate), "broken")
        if gate.value is not None:
            failure.text = (f"interval {show_number(gate.low)} to {show_number(gate.high)}, "
                            f"margin {show_number(gate.margin)}")  # fmt: skip
            if gate.noise is not None:
                failure.text = f"{gate.reason}; margin {show_number(gate.margin)}"
        case.result = failure
    elif gate.state == "not judged":
        case.result = Skipped(gate.reason, "not judged")
    return case
