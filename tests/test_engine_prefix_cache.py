"""Laws of the prefix cache: what it answers is what reading everything gives, within its budget, for these weights."""

import random
import threading

import pytest
import torch

from bench.prefix_scenarios import SHAPES, SLOT_SHAPES, VOCAB, make_model, plain_logits, run_scenarios
from nanochat.engine.prefix_cache import PrefixCache, PrefixMatch
from nanochat.engine.prefix_tree import PrefixTree
from nanochat.model import LanguageModel

ALL_SHAPES = SHAPES + SLOT_SHAPES
RECURRENT = [shape for shape in ALL_SHAPES if shape != ("T", 0)]
BOUNDARY = VOCAB - 1  # an id that random ids do not hold


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def random_ids(length: int, seed: int) -> list[int]:
    return torch.randint(BOUNDARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def read(prefixes: PrefixCache, ids: list[int], passing: bool = False) -> tuple[PrefixMatch, torch.Tensor]:
    """Read ids as an engine does: from the match on, keeping states where asked; the match and the next logits."""
    model, match = prefixes.model, prefixes.match(ids)
    features, cache = match.features, match.make_cache()
    for end in match.snapshots:
        features = model.features(torch.tensor([ids[cache.host_lengths[0] : end]]), cache)[0, -1]
        prefixes.insert(ids[:end], cache, features=features, version=match.version, passing=passing)
    return match, model.head(features)


def assert_exact(model: LanguageModel, ids: list[int], logits: torch.Tensor) -> None:
    difference = (logits - plain_logits(model, [ids])[0]).abs().max().item()
    assert difference < 1e-5, f"logits after {len(ids)} tokens differ by {difference}"


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_a_second_question_reads_only_itself(shape):
    model = make_model(*shape)
    prefixes = PrefixCache(model, max_bytes=10**7, boundary_ids=(BOUNDARY,))
    documents = [*random_ids(50, 0), BOUNDARY]
    for number, question in enumerate(random_ids(9, seed) for seed in (1, 2, 3)):
        question[0] = number  # questions differ from their first id on
        match, logits = read(prefixes, documents + question)
        assert_exact(model, documents + question, logits)
        assert match.num_tokens == (51 if number else 0)
    stats = prefixes.stats
    assert (stats.hits, stats.misses, stats.tokens_reused, stats.tokens_read) == (2, 1, 102, 78)
    assert stats.token_hit_rate == 102 / 180
    assert stats.num_snapshots == stats.insertions == (3 if shape == ("T", 0) else 4)


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_the_same_prompt_again_costs_no_forward(shape):
    model = make_model(*shape)
    prefixes = PrefixCache(model, max_bytes=10**7)
    ids = random_ids(37, 0)
    read(prefixes, ids)
    match = prefixes.match(ids)
    assert (match.num_tokens, match.snapshots) == (37, ())
    assert_exact(model, ids, model.head(match.features))
    # shorter than what is known: a state cannot be cut, keys and values can, but the last id must be read for logits
    match = prefixes.match(ids[:36])
    assert (match.num_tokens, match.features) == (35 if shape == ("T", 0) else 0, None)


@pytest.mark.parametrize("shape", RECURRENT)
def test_where_prompts_part_ways_a_state_is_kept_the_second_time_and_used_the_third(shape):
    model = make_model(*shape)
    prefixes = PrefixCache(model, max_bytes=10**7)
    stem = random_ids(40, 0)
    expected = [(0, (60,)), (0, (40, 60)), (40, (60,)), (40, (60,))]
    for number, (num_tokens, snapshots) in enumerate(expected):
        ids = [*stem, number, *random_ids(19, number + 1)]
        match, logits = read(prefixes, ids)
        assert (match.num_tokens, match.snapshots) == (num_tokens, snapshots), f"prompt {number}"
        assert_exact(model, ids, logits)
    # too few tokens in common to be worth a state
    assert prefixes.match([*stem[:15], 9, *random_ids(20, 9)]).snapshots == (36,)


def test_boundaries_of_the_caller_count_besides_boundary_ids():
    prefixes = PrefixCache(make_model("M"), max_bytes=10**7, boundary_ids=(BOUNDARY,))
    ids = [*random_ids(20, 0), BOUNDARY, *random_ids(20, 1), BOUNDARY, *random_ids(30, 2)]
    assert prefixes.match(ids).snapshots == (42, 72)
    assert prefixes.match(ids, boundaries=[30, 72, 5]).snapshots == (30, 42, 72)


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_matches_are_by_value(shape):
    model = make_model(*shape)
    prefixes = PrefixCache(model, max_bytes=10**7, boundary_ids=(BOUNDARY,))
    ids = [*random_ids(30, 0), BOUNDARY, *random_ids(5, 1)]
    read(prefixes, ids)
    one, other = prefixes.match([*ids[:31], 1, 2]), prefixes.match([*ids[:31], 3, 4])
    assert other.make_cache(capacity=70).capacity in (None, 70)
    model(torch.tensor([[1, 2]]), one.make_cache())
    prefixes.clear()
    assert_exact(model, [*ids[:31], 3, 4], model(torch.tensor([[3, 4]]), other.make_cache())[0, -1])


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_the_budget_holds_and_the_least_recently_used_leave_first(shape):
    model = make_model(*shape)
    prompts = [[number, *random_ids(40, number)] for number in range(6)]
    one = PrefixCache(model, max_bytes=10**7)
    read(one, prompts[0])
    size = one.stats.bytes
    prefixes = PrefixCache(model, max_bytes=3 * size)
    for number, ids in enumerate(prompts[:5]):
        read(prefixes, ids)
        if number >= 2:
            assert prefixes.match(prompts[0]).num_tokens == 41, "the one in use was forgotten"
        assert prefixes.stats.bytes <= 3 * size
    assert prefixes.stats.evictions == 2
    assert [prefixes.match(ids).num_tokens for ids in prompts] == [41, 0, 0, 41, 41, 0] or shape == ("T", 0)
    # what cannot fit at all throws nothing out
    before = prefixes.stats
    big = random_ids(10 * 41 if "T" in shape[0] else 41, 77)
    small = PrefixCache(model, max_bytes=size - 1)
    assert read(small, prompts[0])[0].num_tokens == small.stats.bytes == small.stats.evictions == 0
    if "T" in shape[0]:
        read(prefixes, big)
        assert (prefixes.stats.bytes, prefixes.stats.evictions) == (before.bytes, before.evictions)


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_the_budget_holds_at_every_moment_also_while_a_state_is_taken_in(shape, monkeypatch):
    model, most = make_model(*shape), [0]
    size = PrefixCache(model, max_bytes=10**7)
    read(size, random_ids(41, 0))
    prefixes = PrefixCache(model, max_bytes=4 * size.stats.bytes)
    for name in ("add", "_split"):
        act = getattr(PrefixTree, name)

        def watched(tree, *arguments, act=act):
            done = act(tree, *arguments)
            most[0] = max(most[0], tree.num_bytes)
            return done

        monkeypatch.setattr(PrefixTree, name, watched)
    for number in range(40):
        # stems of different length, some known in part
        read(prefixes, random_ids(10 + number % 3 * 10, number % 4) + random_ids(20 + number % 7, 100 + number),
             passing=number % 5 == 0)
    assert 0.7 * prefixes.max_bytes < most[0] <= prefixes.max_bytes, f"{most[0]} bytes of {prefixes.max_bytes}"
    assert prefixes.stats.evictions > 20
    tree = prefixes._tree
    assert tree.num_bytes == sum(node.num_bytes for node in all_nodes(tree)) <= prefixes.max_bytes


@pytest.mark.parametrize("shape", RECURRENT)
def test_ends_of_questions_leave_before_what_others_may_begin_with(shape):
    model = make_model(*shape)
    documents = [[number, *random_ids(40, number)] for number in range(3)]
    ends = [documents[0] + random_ids(6, seed) for seed in (11, 12, 13)]
    size = PrefixCache(model, max_bytes=10**7)
    for ids in (documents[0], ends[0], documents[1]):
        read(size, ids)
    prefixes = PrefixCache(model, max_bytes=size.stats.bytes)
    for ids in (documents[0], documents[1], *ends):
        read(prefixes, ids, passing=ids in ends)
    # the first end was forgotten for the second, that for the third, and the documents before them stayed
    assert [prefixes.match(ids).num_tokens for ids in (documents[1], *ends)] == [41, 41, 41, 47]
    # asked for again it is like the others: documents that were used before it leave
    read(prefixes, documents[2])
    assert [prefixes.match(ids).num_tokens for ids in (ends[2], documents[2])] == [47, 41]


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_nothing_is_left_in_memory_when_everything_is_forgotten(shape):
    tree = PrefixCache(make_model(*shape), max_bytes=10**7)
    chance = random.Random(0)
    stems = [random_ids(30, seed) for seed in range(3)]
    for number in range(20):
        stem = chance.choice(stems)
        read(tree, stem[: chance.randint(5, 30)] + random_ids(chance.randint(1, 20), number))
    inner: PrefixTree = tree._tree
    assert inner.num_bytes == sum(node.num_bytes for node in all_nodes(inner))
    while tree._recent:
        node = chance.choice([node for node in tree._recent if not node.children])
        del tree._recent[node]
        inner.drop(node)
        assert inner.num_bytes == sum(node.num_bytes for node in all_nodes(inner))
    assert inner.num_bytes == 0 and not inner.root.children


def all_nodes(tree: PrefixTree) -> list:
    nodes, waiting = [], [*tree.root.children.values()]
    while waiting:
        nodes.append(waiting.pop())
        waiting += nodes[-1].children.values()
        assert nodes[-1].children or nodes[-1].snapshot is not None, "a leaf that nothing can go on from"
    return nodes


def halve_one_number(model: LanguageModel) -> None:
    model.norm.weight[3] *= 0.5


def write_as_optimizers_do(model: LanguageModel) -> None:
    torch._foreach_mul_(list(model.parameters()), 0.99)


def load_other_weights(model: LanguageModel) -> None:
    model.load_state_dict(make_model("M,T", seed=9).state_dict())


def write_through_data(model: LanguageModel) -> None:
    model.embed.weight.data.add_(0.01)


def replace_a_tensor(model: LanguageModel) -> None:
    model.layers[0].mixer.in_proj.weight = torch.nn.Parameter(model.layers[0].mixer.in_proj.weight * 1.5)


def convert(model: LanguageModel) -> None:
    model.double()


@pytest.mark.parametrize(
    "change",
    [halve_one_number, write_as_optimizers_do, load_other_weights, write_through_data, replace_a_tensor, convert])
def test_other_weights_get_no_answer_from_these(change):
    model = make_model("M,T")
    prefixes = PrefixCache(model, max_bytes=10**7)
    ids = random_ids(30, 0)
    read(prefixes, ids)
    begun = prefixes.match([*ids, 1])
    assert begun.num_tokens == 30
    change(model)
    # what was begun with the old weights is not taken in
    assert not prefixes.insert(ids, begun.make_cache(), features=torch.zeros(1), version=begun.version)
    match, logits = read(prefixes, ids)
    assert match.num_tokens == 0 and prefixes.stats.invalidations == 1
    assert_exact(model, ids, logits)
    assert prefixes.match(ids).num_tokens == 30 and prefixes.stats.invalidations == 1


def test_a_steady_time_looks_at_the_weights_once_and_what_changed_in_it_is_seen_behind_it(monkeypatch):
    model = make_model("M,T")
    prefixes = PrefixCache(model, max_bytes=10**7)
    ids, looks, find = random_ids(30, 0), [], prefixes._weights.have_changed
    monkeypatch.setattr(prefixes._weights, "have_changed", lambda: looks.append(1) or find())
    with prefixes.steady():
        read(prefixes, ids)
        assert prefixes.match(ids).num_tokens == 30 and len(looks) == 1
        halve_one_number(model)
    assert prefixes.match(ids).num_tokens == 0 and prefixes.stats.invalidations == 1


def test_what_is_being_read_while_the_cache_is_cleared_is_not_taken_in():
    model = make_model("M")
    prefixes = PrefixCache(model, max_bytes=10**7)
    match = prefixes.match([1, 2, 3])
    features = model.features(torch.tensor([[1, 2, 3]]), cache := match.make_cache())[0, -1]
    prefixes.clear()
    assert not prefixes.insert([1, 2, 3], cache, features=features, version=match.version)
    assert prefixes.stats.bytes == 0


def test_threads_share_one_cache():
    model = make_model("M,T")
    prefixes = PrefixCache(model, max_bytes=60_000, boundary_ids=(BOUNDARY,))
    stems = [[*random_ids(30, seed), BOUNDARY] for seed in range(4)]
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            with torch.no_grad():
                for number in range(15):
                    ids = chance.choice(stems) + random_ids(4, 100 * seed + number)
                    assert_exact(model, ids, read(prefixes, ids)[1])
        except AssertionError as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    stats = prefixes.stats
    assert stats.hits + stats.misses == 60 and stats.hits > 20 and stats.bytes <= 60_000


@pytest.mark.parametrize("shapes", [SHAPES, SLOT_SHAPES])
def test_random_lives_end_with_the_logits_of_reading_everything_again(shapes):
    done = run_scenarios(150, seed=4, shapes=shapes)
    assert done["largest_difference"] < 1e-5, done
    counts = done["prefix_cache"]
    assert min(counts["hits"], counts["evictions"], counts["insertions"]) > 30, counts
