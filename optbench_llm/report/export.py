"""The figures of a board as PNG and SVG files."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

from optbench_llm.report.figure import Figure

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: The width, in pixels, of what fills a page.
_WIDTH = 760
_CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "DejaVu Sans, sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#d0d7de", "domainColor": "#d0d7de", "tickColor": "#d0d7de"},
}


def export(figure: Figure, folder: Path, prefix: str = "") -> list[Path]:
    """Write every plot of the figure in both forms; returns the files.

    Raises:
        OSError: the folder cannot be written.
    """
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for plot in figure.plots:
        spec = (plot.spec if plot.still is None else plot.still()) | {
            "datasets": figure.data, "config": _CONFIG, "title": figure.title,
        }  # fmt: skip
        if spec.get("width") == "container":
            spec["width"] = _WIDTH
        parts = "-".join(part for part in (prefix, figure.id, plot.name) if part)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", parts)
        png, svg = folder / f"{name}.png", folder / f"{name}.svg"
        png.write_bytes(_smaller(vl_convert.vegalite_to_png(spec)))
        svg.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
        written += [png, svg]
    return written


def _smaller(png: bytes) -> bytes:
    """The same picture, its pixels compressed well: a third of what is drawn in haste."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    pixels = zlib.decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"))
    rest = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    rest.insert(-1, (b"IDAT", zlib.compress(pixels, 9)))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in rest
    )
