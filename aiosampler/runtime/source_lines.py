"""Lines of source in tracebacks of other processes, which this one may know alone: those of a notebook's cells."""

import linecache
import re
from typing import Any

_FRAME = re.compile(r'^(?P<indent> *)File "(?P<file>.+)", line (?P<line>\d+), in .*$')


def complete_notes(error: BaseException) -> None:
    """Complete the tracebacks in the notes of an error."""
    notes: list[Any] | None = getattr(error, "__notes__", None)
    if notes:
        notes[:] = [with_source_lines(note) if isinstance(note, str) else note for note in notes]


def with_source_lines(text: str) -> str:
    """A text with the line of source after each frame of a traceback that has none, where it can be found here."""
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
