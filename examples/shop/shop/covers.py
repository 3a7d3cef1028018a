"""A cover for a film as SVG: always the same picture for the same film, made without a file or a library."""

import random
from html import escape

PALETTES = [
    ("#0f2027", "#2c5364", "#f2c14e"), ("#3a1c71", "#d76d77", "#ffe5b4"), ("#1d2b64", "#5f2c82", "#7ee8fa"),
    ("#134e5e", "#71b280", "#fdfcdc"), ("#42275a", "#734b6d", "#ffb4a2"), ("#1f1c2c", "#7a5c61", "#f7c59f"),
    ("#232526", "#54606b", "#e4572e"), ("#5c0029", "#a4243b", "#f4e9cd"), ("#0b3954", "#087e8b", "#ff5a5f"),
]  # fmt: skip
WIDTH, HEIGHT = 240, 340


def svg(pk, title, year):
    dice = random.Random(f"{pk}:{title}")
    dark, mid, light = dice.choice(PALETTES)
    shapes = "".join(_shape(dice, light) for _ in range(dice.randint(4, 8)))
    lines = _wrap(title, 16)[:5]
    first = HEIGHT - 44 - 26 * (len(lines) - 1)
    text = "".join(
        f'<text x="18" y="{first + 26 * row}">{escape(line)}</text>' for row, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)} ({year})</title>"
        f'<defs><linearGradient id="g" x1="0" y1="0" x2="{dice.choice("01")}" y2="1"><stop stop-color="{mid}"/>'
        f'<stop offset="1" stop-color="{dark}"/></linearGradient></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="url(#g)"/>{shapes}'
        f'<rect y="{first - 36}" width="{WIDTH}" height="{HEIGHT}" fill="{dark}" opacity=".72"/>'
        f'<g fill="#fff" font-family="Georgia, serif" font-size="23" font-weight="bold">{text}</g>'
        f'<text x="18" y="{HEIGHT - 16}" fill="{light}" font-family="Georgia, serif" font-size="14">{year}</text>'
        "</svg>"
    )


def _shape(dice, colour):
    x, y, size, shade = (
        dice.randint(0, WIDTH),
        dice.randint(0, 240),
        dice.randint(14, 90),
        dice.uniform(0.08, 0.4),
    )
    paint = f'fill="{colour}" opacity="{shade:.2f}"'
    match dice.randrange(4):
        case 0:
            return f'<circle cx="{x}" cy="{y}" r="{size}" {paint}/>'
        case 1:
            return f'<rect x="{x}" y="{y}" width="{size}" height="{size * 2}" {paint} transform="rotate({x} {x} {y})"/>'
        case 2:
            return f'<path d="M{x} {y}l{size} {size * 2}h-{size * 2}z" {paint}/>'
        case _:
            ring = f'fill="none" stroke="{colour}" stroke-width="{size // 8 + 2}" opacity="{shade:.2f}"'
            return f'<circle cx="{x}" cy="{y}" r="{size}" {ring}/>'


def _wrap(text, width):
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word[:width]}".strip()
    return lines
