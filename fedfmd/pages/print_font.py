"""The font of printed figures, with the letters that they are likely to need and no others.

matplotlib cuts the font of each PDF down to the letters in it, and reads the whole font for that: thousands
of glyphs, and tables of other scripts. Of a copy made once per process that takes a tenth of the time.
"""

import atexit
import tempfile
from functools import cache
from pathlib import Path

from fontTools import subset
from matplotlib.font_manager import FontProperties, fontManager

from fedfmd.workers.folders import OwnFolder

FAMILY = "fedfmd print"
PREFIX = "fedfmd-font"
LETTERS = (
    range(0x20, 0x250),
    range(0x370, 0x400),
    range(0x2000, 0x2070),
    range(0x2190, 0x2194),
    (0x2212, 0x221E),
)
"""Latin, Greek, punctuation, arrows, minus and infinity."""
UNUSED = ["FFTM", "MATH", "GDEF", "GPOS", "GSUB"]
"""Tables of formulas, and of scripts and ligatures; kerning by the table ``kern`` stays."""
FAMILY_NAMES = (1, 16)
"""Entries of a font's table of names: its family, and the family that typographers see."""


@cache
def small_copy(families: tuple[str, ...]) -> str:
    """Make a small copy of the first of ``families`` that there is; returns the family's name of the copy.

    What it lacks, as letters of other scripts, matplotlib takes from the families named after it.
    """
    options = subset.Options(glyph_names=True, legacy_kern=True, name_IDs=["*"], notdef_outline=True)
    options.drop_tables += UNUSED
    found = fontManager.findfont(FontProperties(family=list(families)))
    options.font_number = getattr(found, "face_index", 0)
    font = subset.load_font(str(found), options)
    cut = subset.Subsetter(options)
    cut.populate(unicodes=[letter for letters in LETTERS for letter in letters])
    cut.subset(font)
    for name in font["name"].names:
        if name.nameID in FAMILY_NAMES:
            name.string = FAMILY
    copy = _folder() / Path(str(found)).name
    font.save(copy)
    fontManager.addfont(str(copy))
    return FAMILY


@cache
def _folder() -> Path:
    """Return a folder that lasts as long as the process."""
    folder = OwnFolder(Path(tempfile.gettempdir()), PREFIX)
    atexit.register(folder.remove)
    return folder.path
