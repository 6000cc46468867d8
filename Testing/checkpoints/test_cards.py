"""Cards from strangers: any change of one gives a card or one sentence; what is a card comes back as it was."""

import copy
import dataclasses
import json
import struct

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from DWISuperResLib.checkpoints import Card, describe, load_checkpoint, read_card
from DWISuperResLib.errors import InputError

any_card = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
factors = st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0, 5.0])
ranges = st.tuples(st.floats(0, 5000), st.floats(0, 5000)).map(sorted).map(tuple)
printable = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters="\xa0"), max_size=20)


def places(tree, path=()):
    """Every key and index of a JSON tree."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def changed(tree, path, value):
    if not path:
        return value
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


@pytest.fixture(scope="module")
def shipped():
    return json.loads(load_checkpoint("default").card.to_json())


@any_card
@given(data=st.data(), value=json_values)
def test_any_value_anywhere_in_a_card_gives_a_card_or_one_sentence(shipped, data, value):
    path = data.draw(st.sampled_from(list(places(shipped))))
    try:
        card = Card.from_json(json.dumps(changed(shipped, path, value)))
    except InputError as error:
        sentence = str(error)
        assert sentence
        assert len(sentence) < 2000
        assert sentence.isprintable()
    else:
        assert Card.from_json(card.to_json()) == card


@any_card
@given(
    name=printable.filter(str.strip),
    triples=st.lists(st.tuples(factors, factors, factors), min_size=1, max_size=4),
    bvals=st.just(()) | ranges,
    snr=st.just(()) | ranges,
    licence=printable,
)
def test_a_card_comes_back_from_json_as_it_was(name, triples, bvals, snr, licence):
    card = Card(name, "sr_unet", {"scales": [2]}, tuple(triples), bvals=bvals, snr=snr, licence=licence)
    assert Card.from_json(card.to_json()) == card


@any_card
@given(text=st.text(max_size=60) | st.sampled_from(["[" * 5000, "{" * 5000, '{"name":' * 3000, "1" * 5000, "NaN"]))
def test_any_text_for_a_card_is_refused_in_one_sentence(text):
    with pytest.raises(InputError, match=r"card|JSON"):
        Card.from_json(text)


@any_card
@given(
    length=st.integers(0, 2**64 - 1) | st.none(),
    metadata=json_values,
    tensors=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
    rest=st.binary(max_size=64),
)
def test_any_safetensors_header_is_refused_in_one_sentence(length, metadata, tensors, rest, tmp_path):
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + rest)
    with pytest.raises(InputError, match=r"model\.safetensors cannot be used"):
        read_card(path)


@given(
    st.tuples(*[st.floats(1, 2.5)] * 3), st.tuples(*[st.floats(0, 2.5)] * 3), st.tuples(*[st.floats(1, 5)] * 3),
    st.integers(0, 2),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_networks_of_the_fine_grid_serve_what_lies_between_their_factors(low, spread, wanted, axis):
    """On a grid so fine that a voxel more or less does not matter, against the definition."""
    high = tuple(a + b for a, b in zip(low, spread, strict=True))
    assume(all(a == b or b - a > 0.1 for a, b in zip(low, high, strict=True)) and low != high)
    card = Card("free", "recnn", {}, (low, high), view={"kind": "block", "kernel": "bspline"})
    coarse = 1000
    fine = [round(coarse * factor) for factor in wanted]
    margin = min(abs(f - limit) for f, pair in zip(wanted, zip(low, high, strict=True), strict=True) for limit in pair)
    assume(margin > 0.01)
    order = [a for a in range(3) if a != axis] + [axis]
    shape = [0, 0, 0]
    for position, length in zip(order, fine, strict=True):
        shape[position] = length
    between = all(a < f < b for f, a, b in zip(wanted, low, high, strict=True))
    assert card.serves((coarse,) * 3, shape, axis) == between
    assert not dataclasses.replace(card, view={"kind": "slice"}).limits
    assert not dataclasses.replace(card, factors=(high,)).limits


def test_a_network_of_the_fine_grid_leaves_alone_what_it_was_not_trained_to_refine():
    card = Card("free", "srcnn", {}, ((2, 2, 1), (3, 3, 1)), view={"kind": "slice", "kernel": "bspline"})
    assert card.served_text == "2x2x1 to 3x3x1"
    assert "super-resolution x2x2x1 to 3x3x1" in describe(card)
    assert card.serves((20, 20, 9), (50, 45, 9), axis=2)
    assert not card.serves((20, 20, 9), (50, 45, 10), axis=2)
    assert not card.serves((20, 20, 9), (20, 45, 9), axis=2)
    assert not card.serves((20, 20, 9), (20, 20, 9), axis=2)
