"""The short form of `python -m tests.bench.quality`: small circles, the whole way from their play to the table."""

import json
from pathlib import Path

import pytest

from tests.bench import quality


def test_the_matrix_is_played_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "reports.json"
    quality.main(
        [
            *("--people", "6", "--days", "1", "--seeds", "2", "--presets", "solo", "--poison", "0", "0.5"),
            *("--styles", "collude", "--at-once", "2", "--json", str(written)),
        ]
    )
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    ours = {row[1]: row for row in rows if row[0:1] == ["solo"] and "ours" in row}
    assert set(ours) == {"0%", "50%"}
    # Where one person's word is enough, cheaters are listed, and hardly anybody whom liars accuse.
    assert float(ours["0%"][4]) > 0.2
    assert ours["0%"][-1] == "-"
    attacked, _, victims = ours["50%"][-3:]
    assert float(attacked) < float(victims) / 3
    reports = json.loads(written.read_text("utf-8"))
    assert [(each["preset"], each["poison"], len(each["reports"])) for each in reports] == [
        ("solo", 0.0, 1),
        ("solo", 0.5, 1),
    ]


def test_the_whole_is_every_preset_share_and_style() -> None:
    options, _ = quality.options_of(["--whole"])
    assert len(options.cases) == len(set(options.cases)) == 4 * (1 + 3 * 9)
    by_default, _ = quality.options_of([])
    assert [(case.preset, case.poison) for case in by_default.cases] == [
        *(("friends", 0.0), ("friends", 0.33), ("tracker", 0.0), ("tracker", 0.33)),
    ]
    assert len(by_default.seeds) == 2
