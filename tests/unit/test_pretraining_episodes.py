"""Episodes made up for training: sound references, damage on the part only, the same from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.errors import UsageError
from service.pipeline.normalize import NEUTRAL
from service.pretraining.episodes import REFERENCES, SIDE, VIEWS, Episode, Label, draw_episode
from service.pretraining.photos import Photos
from tests.support.photos import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return Photos.read(write_photos(tmp_path_factory.mktemp("photos"), broken=2))


@pytest.fixture(scope="module")
def episodes(photos: Photos) -> list[Episode]:
    return [draw_episode(np.random.default_rng(seed), photos) for seed in range(40)]


def test_references_are_sound_and_damage_lies_on_the_part(episodes: list[Episode]) -> None:
    """Nothing but judged views is damaged, and nothing off the part; off the part the picture is plain."""
    for episode in episodes:
        assert episode.images.shape == (VIEWS, SIDE, SIDE, 3)
        assert not (episode.labels[:REFERENCES] != Label.SOUND).any()
        assert not ((episode.labels == Label.DAMAGED) & (episode.covered == 0)).any()
        assert (episode.images[episode.covered == 0] == NEUTRAL).all()
        assert (episode.covered.sum(axis=(1, 2)) > 0).all()


def test_most_judged_views_are_damaged_and_some_are_sound(episodes: list[Episode]) -> None:
    """Both are there to be told apart, and some parts do not fill the picture."""
    damaged = [(view == Label.DAMAGED).any() for episode in episodes for view in episode.labels[REFERENCES:]]

    assert 0.5 < np.mean(damaged) < 1
    assert any((episode.covered == 0).any() for episode in episodes)


def test_the_same_seed_draws_the_same_episode(photos: Photos, episodes: list[Episode]) -> None:
    """A training can be repeated."""
    again = draw_episode(np.random.default_rng(3), photos)

    np.testing.assert_array_equal(again.images, episodes[3].images)
    np.testing.assert_array_equal(again.labels, episodes[3].labels)


def test_parts_are_shown_where_there_are_any(photos: Photos) -> None:
    """With a share of one every episode shows crops of the parts that were given."""
    mask = np.zeros((320, 320), bool)
    mask[20:300, 100:220] = True
    part = (np.where(mask[..., None], np.uint8(200), np.uint8(NEUTRAL)).astype(np.uint8).repeat(3, axis=2), mask)

    episode = draw_episode(np.random.default_rng(0), photos, lambda _rng, count: [part] * count, parts_share=1.0)

    assert 0 < episode.covered.mean() < 1


def test_photos_of_a_folder_without_any_are_refused(tmp_path: Path) -> None:
    """One line says what is missing: the folder, the tar files, or a file that is a tar."""
    with pytest.raises(UsageError, match="no folder"):
        Photos.read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no photos"):
        Photos.read(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no tar at all")
    with pytest.raises(UsageError, match=r"a\.tar cannot be read"):
        Photos.read(tmp_path)


def test_photos_that_cannot_be_decoded_are_passed_over_or_refused(tmp_path: Path, photos: Photos) -> None:
    """Two broken ones among six do no harm; nothing but broken ones is said."""
    assert len(photos) == 8
    for seed in range(20):
        assert photos.pick(np.random.default_rng(seed)).shape == (120, 160, 3)
    broken = Photos.read(write_photos(tmp_path, count=0, broken=2))
    with pytest.raises(UsageError, match="cannot be decoded"):
        broken.pick(np.random.default_rng(0))
