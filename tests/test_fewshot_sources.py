"""Where tasks come from: shapes, disjointness, determinism, and what the sources refuse."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from learnopt.fewshot.episode import EpisodeSource
from learnopt.fewshot.sources.drawings import group_names, read_images
from learnopt.fewshot.sources.glyphs import SIZE, glyphs
from learnopt.fewshot.sources.labelled import FewShot
from learnopt.fewshot.sources.sinusoids import Sinusoids

X = torch.arange(60.0)[:, None]
Y = torch.arange(60) % 6  # ten examples of each of six classes
SOURCES: dict[str, Callable[[], EpisodeSource]] = {
    "sinusoids": lambda: Sinusoids(5, 7),
    "random frequency": lambda: Sinusoids(5, 7, random_frequency=True),
    "few shot": lambda: FewShot(X, Y, 3, 2, 4),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_draw_is_a_function_of_the_seed(name: str) -> None:
    state = torch.get_rng_state()
    source = SOURCES[name]()
    assert isinstance(source, EpisodeSource)
    one, same, other = source.draw(1, 4), SOURCES[name]().draw(1, 4), source.draw(2, 4)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.support_x, other.support_x)
    assert torch.equal(torch.get_rng_state(), state)
    assert source.describe() == SOURCES[name]().describe()


def test_sinusoids_are_sine_waves_within_the_papers_ranges() -> None:
    e = Sinusoids(10, 40).draw(0, 300)
    assert e.support_x.shape == (300, 10, 1)
    assert e.query_y.shape == (300, 40, 1)
    x, y = (torch.cat(p, 1)[..., 0].double() for p in ((e.support_x, e.query_x), (e.support_y, e.query_y)))
    assert float(x.abs().max()) <= 5
    basis = torch.stack([x.sin(), x.cos()], -1)
    weights = torch.linalg.lstsq(basis, y[..., None]).solution
    assert float((basis @ weights - y[..., None]).abs().max()) < 1e-4
    a, b = weights[:, 0, 0], -weights[:, 1, 0]  # y = A sin(x - phase)
    amplitude, phase = (a * a + b * b).sqrt(), torch.atan2(b, a)
    assert 0.1 <= float(amplitude.min()) < 0.3
    assert 4.8 < float(amplitude.max()) <= 5.0
    assert -1e-4 <= float(phase.min()) < 0.1
    assert 3.0 < float(phase.max()) <= math.pi + 1e-4


def test_random_frequencies_are_no_longer_one() -> None:
    e = Sinusoids(10, 40, random_frequency=True).draw(0, 20)
    basis = torch.stack([e.query_x[..., 0].sin(), e.query_x[..., 0].cos()], -1)
    rest = basis @ torch.linalg.lstsq(basis, e.query_y).solution - e.query_y
    assert float(rest.abs().amax((1, 2)).median()) > 0.1


def test_episodes_hold_different_examples_of_distinct_classes() -> None:
    e = FewShot(X, Y, 4, 3, 5).draw(3, 50)
    assert e.support_x.shape == (50, 12, 1)
    assert e.query_x.shape == (50, 20, 1)
    for task in range(50):
        rows = torch.cat([e.support_x[task], e.query_x[task]])[:, 0].long()
        labels = torch.cat([e.support_y[task], e.query_y[task]])
        assert len(rows.unique()) == 32
        owner = {int(k): set((rows[labels == k] % 6).tolist()) for k in labels.unique()}
        assert all(len(classes) == 1 for classes in owner.values())
        assert len(set.union(*owner.values())) == 4
        assert torch.bincount(e.support_y[task]).tolist() == [3] * 4


def test_classes_of_unequal_size_lend_only_their_own_examples() -> None:
    y = torch.tensor([0] * 3 + [1] * 30 + [2] * 4)
    e = FewShot(torch.arange(37.0)[:, None], y, 3, 1, 2).draw(0, 40)
    for task in range(40):
        rows = torch.cat([e.support_x[task], e.query_x[task]])[:, 0].long()
        labels = torch.cat([e.support_y[task], e.query_y[task]])
        assert all(len(y[rows[labels == k]].unique()) == 1 for k in range(3))


def test_turned_classes_are_turned_as_a_whole() -> None:
    g = torch.Generator().manual_seed(0)
    base = torch.rand(6, 1, 4, 4, generator=g)
    source = FewShot(base[Y], Y, 2, 2, 3, turned=True)
    e, quarters = source.draw(0, 30), set()
    for task in range(30):
        for k in range(2):
            own = torch.cat([e.support_x[task][e.support_y[task] == k], e.query_x[task][e.query_y[task] == k]])
            found = [(c, q) for c in range(6) for q in range(4) if torch.equal(own[0], base[c].rot90(q, (-2, -1)))]
            assert len(found) == 1
            quarters.add(found[0][1])
            assert all(torch.equal(own[0], other) for other in own)
    assert quarters == {0, 1, 2, 3}
    assert "turned" in source.describe()


def test_describe_tells_different_data_apart() -> None:
    one, other = (FewShot(x, Y, 3, 1, 2).describe() for x in (X, X + 1))
    assert one != other


def test_glyphs_are_ink_on_paper_and_splits_are_disjoint() -> None:
    images, labels = glyphs(6, 20)
    assert images.shape == (120, 1, SIZE, SIZE)
    assert torch.bincount(labels).tolist() == [20] * 6
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert all(0.02 < float(images[labels == k].mean()) < 0.6 for k in range(6))
    test, _ = glyphs(6, 20, split="test")
    other, _ = glyphs(6, 20, seed=1)
    for one, two in ((images, test), (images, other), (test, other)):
        assert float(torch.cdist(one.flatten(1), two.flatten(1)).min()) > 0.1
    assert torch.equal(images, glyphs.__wrapped__(6, 20)[0])


def test_examples_of_a_glyph_are_alike_but_not_the_same() -> None:
    images, labels = glyphs(30, 8)
    distances = torch.cdist(images.flatten(1), images.flatten(1))
    same = labels[:, None] == labels
    own = distances[same & ~torch.eye(len(labels), dtype=torch.bool)]
    assert float(own.min()) > 0.1
    assert float(own.mean()) < float(distances[~same].mean())


def omniglot_like(folder: Path) -> None:
    """Two alphabets with two and one characters of three drawings each, as Omniglot's archives hold them."""
    shade = 0
    for place in ("images/Greek/character01", "images/Greek/character02", "images/Latin/character01"):
        (folder / place).mkdir(parents=True)
        for k in range(3):
            shade += 10
            ink = np.full((105, 105), 255, dtype=np.uint8)
            ink[:, :52] = 255 - shade
            Image.fromarray(ink).save(folder / place / f"{k}.png")
    (folder / "images" / "notes.txt").write_text("not an image")


def test_arrays_will_do() -> None:
    x, y = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 5
    drawn = FewShot(x, y, 3, 2, 2).draw(1, 4)
    same = FewShot(torch.from_numpy(x).float(), torch.from_numpy(y), 3, 2, 2).draw(1, 4)
    assert all(torch.equal(a, b) for a, b in zip(drawn, same, strict=True))
    with pytest.raises(ValueError, match="labels must be numbers, got dtype <U"):
        FewShot(x, y.astype(str), 3, 2, 2)


@pytest.mark.parametrize("archive", [False, True])
def test_omniglots_own_layout_is_read(tmp_path: Path, archive: bool) -> None:
    omniglot_like(tmp_path / "tree")
    path = tmp_path / "tree"
    if archive:
        path = tmp_path / "small.zip"
        with zipfile.ZipFile(path, "w") as z:
            for file in sorted((tmp_path / "tree").rglob("*.*")):
                z.write(file, file.relative_to(tmp_path / "tree").as_posix())
    images, labels, names = read_images(path, 21)
    assert images.shape == (9, 1, 21, 21)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert names == ["Greek/character01", "Greek/character02", "Latin/character01"]
    assert float(images[4, 0, 0, 0]) == pytest.approx(50 / 255, abs=0.01)
    assert float(images[4, 0, 0, -1]) == 0
    assert group_names(path) == ["Greek", "Latin"]
    only, labels, names = read_images(path, 21, groups=["Latin"])
    assert torch.equal(only, images[6:])
    assert names == ["Latin/character01"]
    e = FewShot(*read_images(path, 21)[:2], ways=3, shots=1, queries=2).draw(0, 2)
    assert e.query_x.shape == (2, 6, 1, 21, 21)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"a/x.png cannot be read as an image"):
        read_images(tmp_path, 8)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "ways": (lambda: FewShot(X, Y, 7, 1, 1), "7 ways need as many classes, the data have 6"),
    "shots": (lambda: FewShot(X, Y, 2, 6, 5), "6 shots and 5 queries need 11 examples of every class, class 0 has 10"),
    "zero": (lambda: FewShot(X, Y, 2, 0, 5), "shots must be a whole number of 1 or more, got 0"),
    "lengths": (lambda: FewShot(X, Y[:5], 2), r"a label for each example, got shapes \(60, 1\) and \(5,\)"),
    "float": (lambda: FewShot(X, Y.float(), 2), "labels must be class numbers, got torch.float32"),
    "turned": (lambda: FewShot(X, Y, 2, 1, 1, turned=True), "only square images can be turned"),
    "sinusoids": (lambda: Sinusoids(0), "shots must be 1 or more, got 0"),
    "glyphs": (lambda: glyphs(0), "classes must be 1 or more, got 0"),
    "size": (lambda: read_images(".", 0), "size must be 1 or more, got 0"),
    "path": (lambda: read_images("nowhere.zip", 8), "'nowhere.zip' is neither a folder nor a zip archive"),
    "no images": (lambda: read_images(Path(__file__).parent, 8), "holds no folder of images"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    not os.environ.get("LEARNOPT_DATA"), reason="needs LEARNOPT_DATA, a folder with Omniglot's archives"
)
def test_omniglots_own_archive() -> None:
    path = Path(os.environ["LEARNOPT_DATA"]) / "omniglot_background_small2.zip"
    assert {"Greek", "Latin", "Sanskrit"} <= set(group_names(path))
    images, labels, names = read_images(path, 20, groups=["Sanskrit"])
    assert len(images) == len(labels) == 20 * len(names)
    assert all(name.startswith("Sanskrit/") for name in names)
    assert 0.02 < float(images.mean()) < 0.3
