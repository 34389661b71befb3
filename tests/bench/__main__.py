"""`make bench`: every figure as a table, and reports/bench.json. Names pick some of them: `make bench ARGS=guard`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from podcastqa.display import Table
from tests.bench.rows import Row

ALL = ("guard", "batches", "postgres", "races", "model", "startup", "mirror", "imports", "notebook", "coverage")
ROOT = Path(__file__).resolve().parents[2]


def main(names: list[str]) -> int:
    """Run the named benches, or all; the exit status says whether a figure failed."""
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"There is no bench {unknown[0]}; there are {', '.join(ALL)}.", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names or ALL:
        rows += importlib.import_module(f"tests.bench.{name}").run()
    print(_table(rows).text())
    target = ROOT / "reports" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"benches": [row.record() for row in rows]}, indent=2) + "\n", encoding="utf-8")
    return 1 if any(row.holds is False for row in rows) else 0


def _table(rows: list[Row]) -> Table:
    said = {True: "yes", False: "NO", None: "not decided"}
    columns = ("bench", "value", "unit", "reference", "ratio", "asked", "holds", "why")
    return Table("Benches", columns, tuple((*_numbers(row), row.asked, said[row.holds], row.why) for row in rows))


def _numbers(row: Row) -> tuple[str, str, str, str, str]:
    shown = [None if number is None else f"{number:.4g}" for number in (row.value, row.reference, row.ratio)]
    return row.id, shown[0] or "", row.unit, shown[1] or "", shown[2] or ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
