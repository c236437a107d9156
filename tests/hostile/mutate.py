"""Ways to damage or forge a file, each drawn from a seeded generator."""

import copy
import random
from typing import Any

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**40, 10**30, 1.5, -0.0, 1e308),
    *("", "x", "0", "\x00", "\ud800", "~nobody/x", "../../x", "/dev/zero", "a" * 3000, "{}", "!!python/object:os.x"),
    *([], [[]], [0], [2**40], ["x"] * 50, {}, {"x": 1}, {"": {}}, {"PruneChannels": {}}),
)


def deep(rng: random.Random, levels: int = 600) -> Any:
    made: Any = 1
    kind = rng.random() < 0.5
    for _ in range(levels):
        made = [made] if kind else {"x": made}
    return made


def value(rng: random.Random) -> Any:
    return deep(rng, rng.choice((3, 60, 600))) if rng.random() < 0.05 else copy.deepcopy(rng.choice(STRANGE))


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every holder and key in nested data."""
    found, stack = [], [data]
    while stack:
        here = stack.pop()
        items = list(here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ())
        for key, inside in items:
            found.append((here, key))
            stack.append(inside)
    return found


def tree(rng: random.Random, data: Any) -> Any:
    """Nested data with one to three values replaced, removed, renamed or moved."""
    made = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = places(made)
        if not known or rng.random() < 0.02:
            return value(rng)
        holder, key = rng.choice(known)
        how = rng.random()
        if how < 0.55:
            holder[key] = value(rng)
        elif how < 0.7:
            other, name = rng.choice(known)
            holder[key] = copy.deepcopy(other[name]) if name in other or isinstance(other, list) else None
        elif how < 0.8:
            del holder[key]
        elif how < 0.9 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * rng.choice((-1, 2, 1000, 2**33)) + rng.choice((0, 1, -1))
        elif isinstance(holder, dict):
            holder[rng.choice(("x", "", "bits", "same", "form", str(key) + "x"))] = holder.pop(key)
        else:
            holder.insert(key, value(rng))
    return made


def content(rng: random.Random, old: bytes) -> bytes:
    """Bytes with a piece flipped, cut, zeroed, doubled, put elsewhere, or with nonsense in the place of all."""
    new = bytearray(old)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not new:
            break
        at, length = rng.randrange(len(new)), rng.choice((1, 1, 2, 8, 100))
        how = rng.randrange(8)
        if how == 0:
            new[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del new[at:]
        elif how == 2:
            new[at : at + length] = bytes(length)
        elif how == 3:
            new[at:at] = new[at : at + length] * rng.choice((1, 3))
        elif how == 4:
            new[at : at + length] = rng.randbytes(length)
        elif how == 5:
            del new[at : at + length]
        elif how == 6:
            new[at : at + 8] = rng.choice((2**63 - 1, 2**40, 2**32, 0)).to_bytes(8, rng.choice(("little", "big")))
        elif rng.random() < 0.1:
            new = bytearray(rng.choice((b"", b"\x00", rng.randbytes(300), b"PK\x03\x04", b"\x80\x04."))) + b""
    return bytes(new)


def text(rng: random.Random, old: str) -> str:
    """Text with lines moved, doubled, cut or filled with what YAML and JSON stumble over."""
    lines = old.split("\n")
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(lines))
        how = rng.randrange(9)
        if how == 0:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        elif how == 1:
            lines.insert(at, rng.choice(lines))
        elif how == 2:
            lines[at] = " " * rng.randrange(9) + lines[at]
        elif how == 3:
            head, colon, _ = lines[at].partition(":")
            lines[at] = f"{head}{colon} {rng.choice(SAID)}"
        elif how == 4:
            del lines[at]
            lines = lines or [""]
        elif how == 5:
            bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
            bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, rng.choice((3, 6, 9)))]
            lines[at:at] = bomb
        elif how == 6:
            levels = rng.choice((5, 70, 400, 3000))
            lines[at] += rng.choice((" " + "[" * levels, " " + "{a: " * levels, "- " * levels, "? " * levels))
        elif how == 7:
            lines[at] = rng.choice(SAID)
        else:
            joined = "\n".join(lines)
            place = rng.randrange(len(joined) + 1)
            lines = (joined[:place] + rng.choice("\x00\x07\t:{}[]&*!|>'\"%@`,#?-~é\u2028\ufeff\U0001f600")
                     + joined[place:]).split("\n")  # fmt: skip
    return "\n".join(lines)


SAID = (
    *("!!python/object/apply:os.mkdir [EXECUTED]", "!!python/name:os.mkdir", "!!binary x", "&a [*a]", "*nobody", "{}"),
    *(
        '"\\UFFFFFFFF"',
        '"\\uD800"',
        '"a\\0b"',
        "0x" + "f" * 5000,
        "9" * 5000,
        "1:1:1",
        "1" + ":1" * 400_000,
        ".nan",
        ".inf",
        "-.inf",
        "~",
    ),
    *("~nobody_here/x", "/dev/zero", "2026-12-01", "[1, 2", "'", "yes", "1e999", "-1", "[[[]]]", "os:mkdir", "zoo:mlp"),
    *(
        "torchvision:fcn_resnet50",
        "timm:resnet18",
        "transformers:bert",
        "trained:x",
        "null",
        "{seed: 1}",
        "{a: {b: c}}",
    ),
)
