"""Where and under what name a file lies: names, links, pipes, folders."""

import os
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .. import hostile
from .files import PICTURE, Odd, holding, whole

NAMES = (
    "a b  c.png",
    " leading.png",
    "trailing .png",
    "two\nlines.png",
    "tab\there.png",
    "-n.png",
    "--help.png",
    "quote'.png",
    'quote".png',
    "=1+1.png",
    "+1.png",
    "@sum.png",
    "brackets[1].png",
    "star*.png",
    "question?.png",
    "percent%20.png",
    "percent%s%d.png",
    "dollar${HOME}.png",
    "a$5 and $6^.png",
    "x$5^$ and ^.png",
    "under_score_{.png",
    "braces{a,b}.png",
    "comma,semicolon;.png",
    "back\\slash.png",
    "ampersand&pipe|.png",
    "hash#.png",
    "colon:.png",
    "tilde~.png",
    "bell\a.png",
    "\x1b[2Jcleared.png",
    "UPPER.PNG",
    "Mixed.Png",
    "double.png.png",
    "other.jpg.png",
    ".hidden.png",
    "...png",
    "x" * 230 + ".png",
    "日本語.png",
    unicodedata.normalize("NFC", "épaule_nfc.png"),
    unicodedata.normalize("NFD", "épaule_nfd.png"),
    "emoji😀.png",
    "ligature_ﬁ.png",
    *hostile.NAMES,
)


NO_TEXT = os.fsdecode(b"latin1_\xe9")  # as archives from Windows leave them


def names() -> Iterator[Odd]:
    for name in (*NAMES, f"{NO_TEXT}.png"):
        yield Odd(name, holding(whole("png")), PICTURE)
    for name in ("cut two\nlines.png", "=cut(1).png", "cut[1].png", f"{NO_TEXT}_cut.png", "cut%s%d{}.png"):
        yield Odd(name, holding(whole("png")[:-60]))


def links() -> Iterator[Odd]:
    """Links, and what is no file at all; what they lead to lies beside them, under names that are no images'."""

    def linked(path: Path, target: str) -> None:
        path.symlink_to(target)

    def beside(path: Path) -> None:
        target = path.with_name(f"{path.name}.target")
        target.write_bytes(whole("png"))
        path.symlink_to(target.name)

    def to_pipe(path: Path) -> None:
        pipe = path.with_name(f"{path.name}.pipe")
        os.mkfifo(pipe)
        path.symlink_to(pipe.name)

    def to_folder(path: Path) -> None:
        folder = path.with_name(f"{path.name}.folder")
        folder.mkdir()
        path.symlink_to(folder.name)

    def twice(path: Path) -> None:
        beside(path)
        path.rename(path.with_name(f"{path.name}.link"))
        path.symlink_to(f"{path.name}.link")

    yield Odd("link.png", beside, PICTURE)
    yield Odd("link_to_link.png", twice, PICTURE)
    yield Odd("broken_link.png", partial(linked, target="nowhere"))
    yield Odd("loop.png", lambda path: path.symlink_to(path.name))
    yield Odd("through_a_file.png", partial(linked, target="/etc/passwd/x.png"))
    yield Odd("link_to_folder.png", to_folder)
    yield Odd("link_to_pipe.png", to_pipe)
    yield Odd("link_to_pipe.dcm", to_pipe)
    yield Odd("link_to_zero.png", partial(linked, target="/dev/zero"))
    yield Odd("link_to_null.png", partial(linked, target="/dev/null"))
    yield Odd("link_to_terminal.png", partial(linked, target="/dev/tty"))
    # a file that opens and cannot be read, for root as well
    yield Odd("unreadable.png", partial(linked, target="/proc/self/mem"))
