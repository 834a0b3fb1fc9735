"""Crops of one picture either judge or tune."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL")

from PIL import Image

from tests.benchmarks.crops import make, pictures_in


def test_no_picture_tunes_and_judges_and_none_is_taken_twice(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        Image.effect_noise((240, 220), 40 + number).save(source / f"{number}.png")
    (source / "copy.png").write_bytes((source / "0.png").read_bytes())
    Image.effect_noise((100, 400), 50).save(source / "narrow.png")
    (source / "text.txt").write_text("no picture")
    pictures = list(pictures_in([source]))
    assert len(pictures) == 6
    made = make(tmp_path / "crops", pictures, crops=2)
    assert (made.judging, made.calibration, made.judging_crops) == (4, 2, 8)
    stems = [
        {one.stem.partition("-")[0] for one in (tmp_path / "crops" / kind).iterdir()}
        for kind in ("judging", "calibration")
    ]
    assert not stems[0] & stems[1]
    with pytest.raises(SystemExit, match="is there already"):
        make(tmp_path / "crops", pictures)
