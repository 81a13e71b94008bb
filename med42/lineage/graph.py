"""The graph of a chain of records as one SVG drawing: sources on the left, the release on the right."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from med42.lineage.record import Record

WIDTH, HEIGHT, ACROSS, DOWN, EDGE = 168, 40, 212, 54, 12  # pixels: of a box, from box to box, round the drawing
COLOURS = {"conversations": "#dcebf7", "benchmarks": "#efe6f5", "packed": "#dcebf7", "preferences": "#dcebf7", "answers": "#dcebf7",
           "model": "#dff1e4", "scores": "#efe6f5", "decision": "#fbeecb", "release": "#f7dfda"}


def in_order(subject: Record, records: Mapping[str, Record]) -> list[Record]:
    """Records in an order in which each comes after its inputs, the subject last."""
    ordered: dict[str, Record] = {}
    waiting = [(subject, False)]
    while waiting:
        record, ready = waiting.pop()
        if record.digest in ordered:
            continue
        if ready:
            ordered[record.digest] = record
            continue
        waiting.append((record, True))
        waiting += [(records[digest], False) for _, digest in sorted(record.inputs.items(), reverse=True) if digest in records]
    return list(ordered.values())


def draw(subject: Record, records: Mapping[str, Record]) -> str:
    """The drawing, as an SVG element; what comes from records is escaped."""
    ordered = in_order(subject, records)
    layer: dict[str, int] = {}
    for record in ordered:
        layer[record.digest] = 1 + max((layer[digest] for digest in record.inputs.values() if digest in layer), default=-1)
    rows: dict[int, int] = {}
    places: dict[str, tuple[int, int]] = {}
    for record in ordered:
        column = layer[record.digest]
        rows[column] = rows.get(column, 0) + 1
        places[record.digest] = (EDGE + ACROSS * column, EDGE + DOWN * (rows[column] - 1))
    width, height = ACROSS * len(rows) - (ACROSS - WIDTH) + 2 * EDGE, DOWN * max(rows.values()) - (DOWN - HEIGHT) + 2 * EDGE
    lines, boxes = [], []
    for record in ordered:
        x, y = places[record.digest]
        for digest in sorted(set(record.inputs.values())):
            if digest in places:
                left, top = places[digest][0] + WIDTH, places[digest][1] + HEIGHT // 2
                bend = (left + x) // 2
                lines.append(Markup('<path d="M{} {}C{} {} {} {} {} {}"/>').format(
                    left, top, bend, top, bend, y + HEIGHT // 2, x, y + HEIGHT // 2))
        boxes.append(Markup(
            '<g><title>{} {}</title><rect x="{}" y="{}" width="{}" height="{}" rx="4" fill="{}"/>'
            '<text x="{}" y="{}">{}</text><text x="{}" y="{}" class="small">{}</text></g>').format(
                record.name, record.digest, x, y, WIDTH, HEIGHT, COLOURS.get(record.kind, "#eeeeee"),
                x + 7, y + 16, _short(record.name, 24), x + 7, y + 31, _short(str(record.measured.get("summary", "")), 30)))
    return str(Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" viewBox="0 0 {} {}" style="max-width: none" '
        'font-family="sans-serif" font-size="12">'
        '<style>.small {{ font-size: 9.5px; fill: #555; }} path {{ fill: none; stroke: #9aa5ad; }} rect {{ stroke: #7b8790; }}</style>'
        '{}{}</svg>').format(width, height, width, height, Markup("").join(lines), Markup("").join(boxes)))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
