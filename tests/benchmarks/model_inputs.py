"""The inputs of the model benchmarks: the same ones every time, no two of them alike."""

from __future__ import annotations

import io
import random
from pathlib import Path

_PICTURES = Path(__file__).resolve().parents[1] / "data"
_PHOTOS = ("astronaut.jpg", "rocket.jpg")
_SHORTEST, _LONGEST = 3, 60
_WORDS = tuple(
    word
    for line in (
        "the of and to in that is was for it with as his on be at by had not are but from or",
        "have an they which one you were her all she there would their we him been has when who",
        "will more no if out so said what up its about into than them can only other new some",
        "could time these two may then do first any my now such like our over man me even most",
        "made after also did many before must through back years where much your way well down",
        "should because each just those people how too little state good very make world still",
        "own see men work long get here between both life being under never day same another",
        "know while last might us great old year off come since against go came right used take",
        "three states himself few house use during without again place around however home",
        "small found thought went say part once general high upon school every does got united",
        "left number course war until always away something fact though water less public put",
        "think almost hand enough far took head yet government system set better told nothing",
        "night end why called eyes find going look asked later knew point next program city",
        "business give group toward days young let room president side social given present",
        "several order national possible rather second face per among form important often",
        "things looked early measurement infrastructure photosynthesis refrigerator negotiable",
        "archaeologist synchronous",
    )
    for word in line.split()
)


def sentences(count: int) -> list[str]:
    """Of 3 to 60 words, every length as likely as another."""
    chance = random.Random(5)
    return [
        " ".join(chance.choices(_WORDS, k=chance.randint(_SHORTEST, _LONGEST)))
        for _ in range(count)
    ]


def photos(count: int) -> list[bytes]:
    """JPEGs 500 to 1,000 pixels wide, cut out of the test pictures, of 75 to 95 % quality."""
    from PIL import Image

    chance = random.Random(50)
    sources = [Image.open(_PICTURES / name).convert("RGB") for name in _PHOTOS]
    return [_photo(chance, chance.choice(sources)) for _ in range(count)]


def _photo(chance: random.Random, source: object) -> bytes:
    from PIL import Image

    assert isinstance(source, Image.Image)
    part, ratio = chance.uniform(0.7, 1.0), chance.choice((3 / 4, 2 / 3, 1.0))
    wide = source.width * part
    high = min(source.height * 0.95, wide * ratio)
    left, top = chance.uniform(0, source.width - wide), chance.uniform(0, source.height - high)
    width = chance.randint(500, 1_000)
    size = (width, round(width * high / wide))
    box = (left, top, left + wide, top + high)
    buffer = io.BytesIO()
    source.resize(size, Image.Resampling.BICUBIC, box=box).save(
        buffer, "JPEG", quality=chance.randint(75, 95)
    )
    return buffer.getvalue()
