"""Task families: references pass, mutants fail, splits never meet, draws are seeded."""

from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_backend.tiny.corpus import examples, plan_for
from local_backend.tiny.families import FAMILIES, SPLITS, Family
from local_backend.tiny.families.creative import score_set
from local_backend.tiny.families.translation import pig_latin
from policies.plan import Plan
from policies.task import Aggregation

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@every_family
def test_references_are_accepted_in_every_split(family: Family):
    for split in SPLITS:
        for prompt in family.held_out(split, count=60, seed=3):
            for seed in range(3):
                assert family.check(prompt, family.solve(prompt, Random(seed), False)), prompt


@every_family
def test_a_reference_with_one_character_changed_is_rejected(family: Family):
    random = Random(1)
    kept = tried = 0
    for prompt in family.held_out("test", count=60):
        answer = family.solve(prompt, random, False)
        place = random.randrange(len(answer))
        if family.name == "maths":  # only the last number counts
            place = len(answer) - 1
        mutant = answer[:place] + ("#" if answer[place] != "#" else "!") + answer[place + 1 :]
        tried += 1
        kept += family.check(prompt, mutant)
    assert tried == 60
    assert kept == 0


@every_family
def test_answers_to_other_prompts_are_rejected(family: Family):
    prompts = family.held_out("test", count=40)
    answers = [family.solve(prompt, Random(0), False) for prompt in prompts]
    crossed = sum(family.check(a, b) for a, b in zip(prompts, answers[1:], strict=False))
    assert crossed <= 2  # two sums may share a total
    for other in FAMILIES.values():
        if other is not family:
            assert not other.check(prompts[0], answers[0])


@every_family
def test_hand_written_answers_slip_now_and_then(family: Family):
    prompts = family.held_out("train", count=150)
    accepted = sum(family.check(prompt, family.solve(prompt, Random(i), True)) for i, prompt in enumerate(prompts))
    assert 0.3 < accepted / len(prompts) < 0.95


@every_family
def test_splits_share_no_content(family: Family):
    contents = {
        split: {family.content(p) for p in islice(family.prompts(split, seed=0, book=split == "train"), 1500)}
        for split in SPLITS
    }
    for one in SPLITS:
        for other in SPLITS:
            if one != other:
                assert not contents[one] & contents[other]


def test_the_training_stream_holds_no_evaluation_prompt():
    held_out = {family.content(prompt) for family in FAMILIES.values() for prompt in family.held_out("test", count=150)}
    seen = 0
    for example in islice(examples(seed=0), 4000):
        if not example.planning:
            found = [family.content(example.prompt) for family in FAMILIES.values()]
            known = [content for content in found if content != "None"]
            assert known
            assert not set(known) & held_out
            seen += 1
    assert seen > 3000


@every_family
def test_draws_are_a_function_of_the_seed(family: Family):
    assert family.held_out("test", count=20, seed=5) == family.held_out("test", count=20, seed=5)
    assert family.held_out("test", count=20, seed=5) != family.held_out("test", count=20, seed=6)
    first, again = (list(islice(examples(seed=4), 50)) for _ in range(2))
    assert first == again


@every_family
def test_one_task_in_two_wordings_falls_into_one_split(family: Family):
    by_content: dict[str, set[str]] = {}
    random = Random(0)
    for _ in range(3000):
        prompt = family.draw(random, False)
        by_content.setdefault(family.content(prompt), set()).add(family.split_of(prompt))
    assert all(len(splits) == 1 for splits in by_content.values())


@every_family
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200))
def test_no_text_breaks_a_checker(family: Family, text: str):
    prompt = family.held_out("test", count=1)[0]
    assert family.check(text, text) is False
    assert family.check(prompt, text) is False
    assert 0 <= family.score(prompt, [text] * family.aggregation.n) <= 1


def test_vote_takes_the_most_common_verdict():
    maths = FAMILIES["maths"]
    prompt = "What is 20+20+20?"
    assert maths.score(prompt, ["60", "so 60", "61"]) == 1
    assert maths.score(prompt, ["61", "60", "61"]) == 0
    assert maths.score(prompt, ["none", "none", "60"]) == 1
    assert maths.score(prompt, ["none"]) == 0


def test_any_needs_one_right_sample_and_first_the_first():
    code, prompt = FAMILIES["code"], "Reach 26 from 7, 3, 5 in Python."
    right = "print(7*3+5)  # 21+5"
    assert code.score(prompt, ["", "print(7+3+5)  # 10+5", right]) == 1
    assert code.score(prompt, ["", "print(7*3+5)  # 20+5"]) == 0
    pig = FAMILIES["translation"]
    assert pig.score("Say in Pig Latin: cat dog owl", ["atcay ogday owlway", "x"]) == 1
    assert pig.score("Say in Pig Latin: cat dog owl", ["x", "atcay ogday owlway"]) == 0
    with pytest.raises(ValueError, match="no samples"):
        pig.score("Say in Pig Latin: cat dog owl", [])


def test_creative_score_is_validity_times_distance():
    prompt = "Write two sentences with lamp and key."
    one = "Mara found the old lamp near the river. Later Mara slowly saw a key."
    other = "Tobin sold the red lamp near the castle. Then Tobin sadly drew a key."
    twin = "Mara found the old lamp near the river. Later Tobin slowly saw a key."
    assert score_set(prompt, [one, one]) == 0
    assert score_set(prompt, [one, other]) == 1
    assert score_set(prompt, [one, other, twin, twin]) == 0.5  # another name in the second sentence: not valid
    assert score_set(prompt, [one, twin]) == 0


@pytest.mark.parametrize(
    ("word", "pig"), [("apple", "appleway"), ("string", "ingstray"), ("cat", "atcay"), ("dry", "ydray")]
)
def test_pig_latin(word, pig):
    assert pig_latin(word) == pig


def test_extraction_reads_json_not_text():
    check = FAMILIES["extraction"].check
    prompt = "Make JSON: Anna orders 24 lamps at 38 euros, room 52."
    assert check(prompt, '{ "room": 52, "who": "Anna", "item": "lamps", "qty": 24, "eur": 38 }')
    assert not check(prompt, '{"who":"Anna","item":"lamps","qty":"24","eur":38,"room":52}')
    assert not check(prompt, '{"who":"Anna","item":"lamps","qty":24,"eur":38}')


def test_asking_for_more_tasks_than_a_split_has_is_an_error():
    with pytest.raises(ValueError, match=r"code: split 'test' has about \d+ tasks"):
        FAMILIES["code"].held_out("test", count=5_000)


def test_plan_labels_follow_family_and_aggregation():
    assert plan_for("maths", Aggregation(kind="vote", n=5)) == Plan(
        family="maths", determinism="exact", diversity="few", depth="short", length="line"
    )
    assert plan_for("code", Aggregation(kind="any", n=8)).determinism == "open"
    assert plan_for("creative", Aggregation()).diversity == "many"
