"""Whether a picture shows what its caption claims, tag by tag."""

import itertools
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from tools.reader import Reading, Seen
from tools.reader.reading import relation
from tools.world.captions import Caption, Claim

NAMES = ("shape", "colour", "size", "material")
TAGS = (
    "one object", *NAMES, "two objects", "binding", "relation", "relation and names", "count", "floor", "style", "caption",
)  # fmt: skip


class Verdict(StrEnum):
    """How a picture does on one tag. SWAPPED: the right colours and shapes, on each other's things."""

    RIGHT = "right"
    SWAPPED = "swapped"
    WRONG = "wrong"
    UNREADABLE = "unreadable"


def judge(caption: Caption, reading: Reading) -> dict[str, Verdict]:
    """A verdict for every tag that the caption has; a picture without a thing that can be read is UNREADABLE.

    "one object": every named attribute of the only thing named ("count" says whether there are more). "two objects":
    colour and shape of both. "binding": the same, where a swap would show. "relation": it holds between the things that
    fit the two names best, and decides between those that fit alike; "relation and names": and they do fit. "caption":
    all that was claimed but the printed words, which figure 16 is about.
    """
    claims = dict(caption.things)
    order = _assigned(caption, claims, reading.things)
    verdicts: dict[str, Verdict] = {}
    if len(claims) == 1 and caption.count == 1:
        (claim,), (seen,) = claims.values(), order.values()
        named = [name for name in NAMES if getattr(claim, name) is not None]
        verdicts |= {name: _named(claim, seen, [name]) for name in named}
        verdicts["one object"] = _named(claim, seen, named)
    if len(claims) == 2 and all(claim.colour and claim.shape for claim in claims.values()):
        verdicts["two objects"] = _both(claims, order, reading.things)
        a, b = claims.values()
        if a.colour != b.colour and a.shape != b.shape:
            verdicts["binding"] = verdicts["two objects"]
    verdicts |= _related(caption, claims, order)
    if caption.count is not None:
        verdicts["count"] = _verdict(len(reading.things) == caption.count, lost=False)
    if not reading.things:
        verdicts = dict.fromkeys(verdicts, Verdict.UNREADABLE)
    for key in ("floor", "style"):
        if (said := getattr(caption, key)) is not None:
            verdicts[key] = _verdict(reading.whole[key] == said, key in reading.unsure)
    every = [_named(claim, order[k], [n for n in NAMES if getattr(claim, n)]) for k, claim in claims.items()]
    every += [verdicts[tag] for tag in ("relation", "count", "floor", "style") if tag in verdicts]
    return verdicts | {"caption": _worst(every) if reading.things else Verdict.UNREADABLE}


def _assigned(caption: Caption, claims: dict[int, Claim], things: Sequence[Seen]) -> dict[int, Seen | None]:
    """The thing that each claim is about: the assignment that fits most names; a relation decides between equals."""
    padded = [*things, *[None] * max(0, len(claims) - len(things))]

    def fit(chosen: Sequence[Seen | None]) -> tuple[int, bool]:
        names = sum(_fits(claim, seen) for claim, seen in zip(claims.values(), chosen, strict=True))
        return names, _holds(caption, dict(zip(claims, chosen, strict=True)))

    return dict(zip(claims, max(itertools.permutations(padded, len(claims)), key=fit), strict=True))


def _fits(claim: Claim, seen: Seen | None) -> int:
    if seen is None:
        return 0
    return sum(getattr(claim, name) == getattr(seen, name) for name in NAMES if getattr(claim, name) is not None)


def _holds(caption: Caption, order: dict[int, Seen | None]) -> bool:
    if caption.relation is None:
        return False
    a, b = order.get(caption.relation.subject), order.get(caption.relation.object)
    return a is not None and b is not None and relation(a, b) == caption.relation.name


def _related(caption: Caption, claims: dict[int, Claim], order: dict[int, Seen | None]) -> dict[str, Verdict]:
    if caption.relation is None:
        return {}
    ends = caption.relation.subject, caption.relation.object
    names = [_named(claims[k], order[k], [n for n in ("colour", "shape") if getattr(claims[k], n)]) for k in ends]
    holds = _verdict(_holds(caption, order), lost=False)
    return {"relation": holds, "relation and names": _worst([holds, *names])}


def _named(claim: Claim, seen: Seen | None, names: Sequence[str]) -> Verdict:
    if seen is None:
        return Verdict.WRONG
    right = all(getattr(claim, name) == getattr(seen, name) for name in names)
    return _verdict(right, any(name in seen.unsure for name in names))


def _both(claims: dict[int, Claim], order: dict[int, Seen | None], things: Sequence[Seen]) -> Verdict:
    verdict = _worst([_named(claims[k], order[k], ("colour", "shape")) for k in claims])
    if verdict is Verdict.RIGHT or len(things) != 2:
        return verdict
    same = all(
        Counter(getattr(claim, name) for claim in claims.values()) == Counter(getattr(seen, name) for seen in things)
        for name in ("colour", "shape")
    )
    return Verdict.SWAPPED if same else verdict


def _verdict(right: bool, lost: bool) -> Verdict:
    return Verdict.UNREADABLE if lost else Verdict.RIGHT if right else Verdict.WRONG


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    """UNREADABLE before WRONG before RIGHT."""
    return next((v for v in (Verdict.UNREADABLE, Verdict.WRONG) if v in verdicts), Verdict.RIGHT)
