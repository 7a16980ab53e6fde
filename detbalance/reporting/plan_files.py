"""Write a plan to disk: plan.json for programs, plan.csv for spreadsheets and pandas.

plan.csv has one line per class, rarest first: its fields in plan.json, then `exposure: NAME` for
each compared setting, boxes per epoch. A cell is empty where a number is undefined.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

from detbalance.planning import ClassPlan, Plan
from detbalance.reporting.files import csv_lines, write_texts


class PlanFiles(NamedTuple):
    """Where a plan was written."""

    json: Path
    csv: Path


def write_plan(plan: Plan, folder: str | Path) -> PlanFiles:
    """Write plan.json and plan.csv into a folder, which is made if need be."""
    folder = Path(folder)
    content = json.dumps(plan.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files = PlanFiles(folder / "plan.json", folder / "plan.csv")
    write_texts("plan", folder, dict(zip(files, (content, _csv_text(plan)), strict=True)))
    return files


def _csv_text(plan: Plan) -> str:
    content = plan.to_dict()
    fields = [field.name for field in dataclasses.fields(ClassPlan)]
    rows = [[*fields, *(f"exposure: {setting.name}" for setting in plan.settings)]]
    for i, row in enumerate(content["classes"]):
        shown = (setting["exposure"][i] for setting in content["settings"])
        rows.append([*(row[field] for field in fields), *shown])
    return csv_lines(rows)
