"""Creative: two sentences with two given words; eight samples should all be good and all be different.

Wants hot decoding: who, what and where are free, and authors have habits (Zipf over each list), so at temperature 1
the samples still resemble one another. Spelling is forced, and so is the name in the second sentence, which must be
the one chosen in the first. Hand-written answers name somebody else there with probability SLIP; references never do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from random import Random

from local_backend.tiny.families.base import Family, words, zipf_choice
from policies.task import Aggregation

SLIP = 0.12
HABIT = 1.8
GIVEN = words(
    "apple axe ball basket bell boat book boot box bread broom bucket candle chain clock cloak coin compass cup door "
    "drum feather fiddle flag flute glove hammer hat jar kettle key kite knife ladder lamp lantern letter map mask "
    "mirror nail needle oar paddle pearl pipe plate pot purse ring rope saddle shell shield spoon stone sword tent "
    "torch trunk umbrella vase violin wagon wheel whistle"
)
NAMES = words("Mara Tobin Elsa Quinn Rufus Hilda Oskar Petra Ivo Nell Brand Wanda")
FINDS = words("found lost sold painted hid stole carried mended borrowed dropped kicked buried")
LOOKS = words("old red tiny golden broken heavy silver dusty strange green cracked warm")
PLACES = words("forest river village castle harbour market desert tower valley garden island bridge")
LATER = words("Later Then Soon Tomorrow Afterwards Suddenly Next Finally")
WANTS = words("needed bought saw drew gave made cleaned broke chose wanted followed threw")
MOODS = words("happily slowly quietly sadly quickly proudly gently bravely secretly gladly calmly loudly")
_GLUE = frozenset(words("the a near"))
_CHOICES = frozenset(word.lower() for part in (NAMES, FINDS, LOOKS, PLACES, LATER, WANTS, MOODS) for word in part)
_LEXICON = _CHOICES | _GLUE | frozenset(GIVEN)
WORDINGS = (
    "Write two sentences with {a} and {b}.",
    "Tell a story in two sentences: {a}, {b}.",
    'Invent two sentences that use "{a}" and "{b}".',
)
_FORMS = tuple(re.compile(re.escape(w).replace(r"\{a\}", "([a-z]+)").replace(r"\{b\}", "([a-z]+)")) for w in WORDINGS)
_TWO_SENTENCES = re.compile(r"([A-Z][A-Za-z ]*)\. ([A-Z][A-Za-z ]*)\.")


def draw(random: Random, book: bool) -> str:
    """Two different words to use."""
    a, b = random.sample(GIVEN, 2)
    return random.choice(WORDINGS).format(a=a, b=b)


def _read(prompt: str) -> tuple[str, str] | None:
    for form in _FORMS:
        if match := form.fullmatch(prompt.strip()):
            return match[1], match[2]
    return None


def solve(prompt: str, random: Random, by_hand: bool) -> str:
    """Somebody does something with the first word somewhere, then with the second."""
    given = _read(prompt)
    if given is None:
        raise ValueError(f"not a story prompt: {prompt!r}")

    def choose(options: Sequence[str]) -> str:
        return zipf_choice(random, options, HABIT) if by_hand else random.choice(options)

    name = again = choose(NAMES)
    if by_hand and random.random() < SLIP:
        # Whom one has in mind instead is nearly always the same person: the favourite.
        again = NAMES[0] if name != NAMES[0] else NAMES[1]
    return (
        f"{name} {choose(FINDS)} the {choose(LOOKS)} {given[0]} near the {choose(PLACES)}. "
        f"{choose(LATER)} {again} {choose(MOODS)} {choose(WANTS)} a {given[1]}."
    )


def check(prompt: str, answer: str) -> bool:
    """Two sentences of known words, both given words used, one name in the first and the same in the second."""
    given, match = _read(prompt), _TWO_SENTENCES.fullmatch(answer.strip())
    if given is None or match is None:
        return False
    first, second = (sentence.split() for sentence in match.groups())
    used = [word.lower() for word in first + second]
    named = [{word for word in sentence if word in NAMES} for sentence in (first, second)]
    return (
        all(word in _LEXICON for word in used)
        and set(given) <= set(used)
        and len(named[0]) == 1
        and named[0] == named[1]
    )


def _choices(answer: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", answer.lower())) & _CHOICES


def score_set(prompt: str, samples: Sequence[str]) -> float:
    """Share of valid samples times their mean pairwise distance.

    The distance of two samples is 1 - |A & B| / |A | B| (Jaccard) over their freely chosen words: those of the
    family's lists, without the given words and the glue. Fewer than two valid samples score 0.
    """
    valid = [_choices(sample) for sample in samples if check(prompt, sample)]
    pairs = list(combinations(valid, 2))
    if not pairs:
        return 0.0
    distance = sum(1 - len(a & b) / max(1, len(a | b)) for a, b in pairs) / len(pairs)
    return len(valid) / len(samples) * distance


def content(prompt: str) -> str:
    """The two words in order."""
    return repr(_read(prompt))


FAMILY = Family(
    name="creative",
    aggregation=Aggregation(kind="best", n=8),
    draw=draw,
    solve=solve,
    check=check,
    content=content,
    score_set=score_set,
    slip=SLIP,
)
