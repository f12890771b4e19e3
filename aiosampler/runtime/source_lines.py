"""Source lines for tracebacks of child processes: of code in a notebook only the user's process has them."""

import linecache
import re
from typing import Any

_FRAME = re.compile(r'^(?P<indent> *)File "(?P<file>.+)", line (?P<line>\d+), in .*$')


def complete_notes(error: BaseException) -> None:
    """Add missing source lines to the tracebacks in the notes of an error."""
    notes: list[Any] | None = getattr(error, "__notes__", None)
    if notes:
        notes[:] = [with_source_lines(note) if isinstance(note, str) else note for note in notes]


def with_source_lines(text: str) -> str:
    """The text with a source line after each traceback frame that lacks it, if this process has the source."""
    completed = []
    lines = text.split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        completed.append(line)
        frame = _FRAME.match(line)
        if frame and not following.startswith(f"{frame['indent']}  "):
            source = linecache.getline(frame["file"], int(frame["line"])).strip()
            if source:
                completed.append(f"{frame['indent']}  {source}")
    return "\n".join(completed)
