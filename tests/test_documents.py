"""The documents say what the code does: flag tables and practice stages are compared with the classes they describe."""

from dataclasses import fields

import pytest
from flag_tables import GUIDE, ROOT, filled

from nanochat.rag.practice import STAGES
from scripts import base_train, mid_train, rag_finetune


def test_flag_tables_of_the_guide_are_those_of_the_scripts():
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("<!-- flags: ") >= 7
    assert filled(text) == text, "flags have changed: python tests/flag_tables.py"


@pytest.mark.parametrize("script", [base_train, mid_train, rag_finetune], ids=lambda script: script.__name__)
def test_every_flag_of_a_training_script_is_in_a_table_of_the_guide(script):
    text = GUIDE.read_text(encoding="utf-8")
    shared = ["scripts.training_settings", "scripts.training_settings:TuningConfig"]
    tables = [text.partition(f"<!-- flags: {name} -->")[2].partition("<!-- /flags -->")[0]
              for name in (*shared, script.__name__)]
    missing = [field.name for field in fields(script.CONFIG) if not any(f"| `--{field.name}` |" in t for t in tables)]
    assert all(tables) and not missing, missing


@pytest.mark.parametrize("name", STAGES)
def test_the_architecture_states_the_gate_of_a_stage(name):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
    gate = f"{STAGES[name].gate:g}"
    assert f"| {gate} of the " in row, f"the gate is {gate}: {row}"
