"""The procedural data set."""

import io
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipelines.build.images import check_image
from pipelines.build.sources import Source
from pipelines.build.textures import FAMILIES, SIDE, FloatArray, texture, textures_source


@pytest.fixture(scope="module")
def source() -> Source:
    return textures_source(seed=0, train_count=200, test_count=50)


def test_classes_are_balanced_in_each_split(source: Source) -> None:
    assert len(set(FAMILIES)) == 10
    counts = Counter((item.split, item.label) for item in source.items)
    assert counts == {(split, label): n for split, n in (("train", 20), ("test", 5)) for label in range(10)}


def test_a_texture_is_a_function_of_seed_split_and_number() -> None:
    reference = texture(3, "train", 7)
    np.testing.assert_array_equal(texture(3, "train", 7), reference)
    for other in (texture(4, "train", 7), texture(3, "test", 7), texture(3, "train", 17)):
        assert (other != reference).mean() > 0.9


def test_an_item_stores_its_texture_as_png_wherever_it_is_read(source: Source) -> None:
    sent: Source = pickle.loads(pickle.dumps(source))
    for item in sent.items[:10] + sent.items[-10:]:
        png = sent.read(item)
        assert len(png) <= item.size
        assert check_image(png).extension == "png"
        np.testing.assert_array_equal(Image.open(io.BytesIO(png)), texture(0, item.split, item.offset))


def test_every_image_has_contrast_and_little_colour() -> None:
    images = np.stack([texture(1, "train", number) for number in range(100)]).astype(np.float64)
    assert images.shape == (100, SIDE, SIDE, 3)
    assert images.mean(axis=3).std(axis=(1, 2)).min() > 15  # of brightness
    channels = images.mean(axis=(1, 2))
    assert (channels.max(axis=1) - channels.min(axis=1)).mean() < 25  # of the mean colour


def test_no_class_has_a_colour_or_brightness_of_its_own() -> None:
    means = np.stack([texture(2, "train", number).mean(axis=(0, 1)) for number in range(1000)])
    by_class = means.reshape(100, 10, 3)
    spread_of_class_means = by_class.mean(axis=0).std(axis=0)
    assert (spread_of_class_means < 2 * by_class.std(axis=0).mean(axis=0) / np.sqrt(100)).all()


def test_the_families_differ_in_form() -> None:
    """A nearest-centroid rule on spectra tells most of them apart, where one on pixels is near chance."""
    spectra, pixels = [], []
    for number in range(400):
        gray = texture(5, "train", number).mean(axis=2)
        normal = (gray - gray.mean()) / gray.std()
        pixels.append(normal.ravel())
        spectra.append(np.sort(np.abs(np.fft.rfft2(normal)).ravel())[-40:])
    labels = np.arange(400) % 10

    def accuracy(features: list[FloatArray]) -> float:
        x = np.stack(features)
        centroids = np.stack([x[:200][labels[:200] == label].mean(axis=0) for label in range(10)])
        distance = ((x[200:, None] - centroids) ** 2).sum(axis=2)
        return float((distance.argmin(axis=1) == labels[200:]).mean())

    assert accuracy(spectra) > 0.5
    assert accuracy(pixels) < 0.25
