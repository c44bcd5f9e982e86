"""The documents say what the code does: flag tables and practice stages are compared with the classes they describe."""

import pytest
from flag_tables import GUIDE, ROOT, filled

from nanochat.rag.practice import STAGES


def test_flag_tables_of_the_guide_are_those_of_the_scripts():
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("<!-- flags: ") >= 7
    assert filled(text) == text, "flags have changed: python tests/flag_tables.py"


@pytest.mark.parametrize("name", STAGES)
def test_the_architecture_states_the_gate_of_a_stage(name):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
    gate = f"{STAGES[name].gate:g}"
    assert f"| {gate} of the " in row, f"the gate is {gate}: {row}"
