"""Crops of the pictures that installed packages ship, as `samples` for classifiers.

    python -m tests.benchmarks.crops TARGET [FOLDER ...]

makes TARGET with two folders, `judging` and `calibration`. A picture's crops lie in one of them:
what tunes a quantization has then seen no picture on which it is judged. Without a FOLDER the
pictures are those of this environment's packages; scikit-image and scikit-learn have 24 between
them. Then

    lanefleet quantize MODEL OUT --samples TARGET/judging --calibration TARGET/calibration
    lanefleet check --all-backends --samples 1000 MODEL

with `samples: TARGET/judging` in the catalog, half of which judge.
"""

from __future__ import annotations

import hashlib
import random
import site
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from worker.models.new_folder import new_folder

CROPS = 24
CALIBRATION = 4
"""Pictures whose crops tune; all others judge."""
_LEAST_SIDE = 160
_LEAST_BYTES = 10_000
_KINDS = (".png", ".jpg", ".jpeg", ".webp")
_SHARES = (0.35, 0.95)
_LONG_SIDE = 320


class Made(NamedTuple):
    """How many pictures and crops there are of each kind."""

    judging: int
    calibration: int
    judging_crops: int


def pictures_in(folders: Iterable[Path]) -> Iterator[Path]:
    """Pictures of a size to be cut, each content once."""
    seen: set[str] = set()
    paths = (path for folder in folders for path in sorted(folder.rglob("*")))
    for path in paths:
        if path.suffix.lower() not in _KINDS or path.stat().st_size < _LEAST_BYTES:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        with Image.open(path) as picture:
            if min(picture.size) >= _LEAST_SIDE:
                yield path


def crops_of(path: Path, count: int) -> Iterator[Image.Image]:
    """Crops of a third to nearly all of each side, some mirrored; the same on each machine."""
    dice = random.Random(path.name)
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    for _ in range(count):
        width, height = (max(1, int(side * dice.uniform(*_SHARES))) for side in picture.size)
        left, top = dice.randint(0, picture.width - width), dice.randint(0, picture.height - height)
        crop = picture.crop((left, top, left + width, top + height))
        crop.thumbnail((_LONG_SIDE, _LONG_SIDE))
        yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if dice.random() < 0.5 else crop


def make(target: Path, pictures: list[Path], crops: int = CROPS) -> Made:
    """Fill the folder; it is there whole or not at all."""
    by_chance = sorted(pictures, key=lambda one: hashlib.sha256(one.name.encode()).digest())
    tuning = set(by_chance[: min(CALIBRATION, len(pictures) // 3)])
    with new_folder(target) as folder:
        if folder is None:
            raise SystemExit(f"{target} is there already; name a folder that is not")
        for path in pictures:
            where = folder / ("calibration" if path in tuning else "judging")
            where.mkdir(exist_ok=True)
            for number, crop in enumerate(crops_of(path, crops)):
                crop.save(where / f"{path.stem}-{number:02}.png")
    judging = len(pictures) - len(tuning)
    return Made(judging, len(tuning), judging * crops)


def main() -> None:
    """Make them and say how many there are."""
    target, *folders = map(Path, sys.argv[1:])
    found = list(pictures_in(folders or map(Path, site.getsitepackages())))
    made = make(target, found)
    print(
        f"{made.judging_crops} crops of {made.judging} pictures judge, "
        f"{made.calibration} pictures tune"
    )


if __name__ == "__main__":
    main()
