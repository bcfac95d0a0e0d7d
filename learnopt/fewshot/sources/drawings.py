"""Images of a folder or a zip archive in which every folder of files is a class, such as Omniglot's own archives."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def read_images(path: str | Path, size: int, *, groups: Collection[str] = ()) -> tuple[Tensor, Tensor, list[str]]:
    """Read all images as grey levels, ink is 1.

    Args:
        path: a folder, or a zip archive such as Omniglot's `images_background.zip`.
        size: pixels a side; images are averaged down.
        groups: names of folders above the classes (Omniglot: alphabets) to keep; empty for all.

    Returns:
        Images `(n, 1, size, size)`, class numbers `(n,)`, and the classes' names, "Greek/character01".

    Raises:
        ValueError: there is no such file, it holds no images of these groups, or one cannot be read.
    """
    from PIL import Image, UnidentifiedImageError  # Pillow comes with matplotlib; only drawings need it

    if size < 1:
        raise ValueError(f"size must be 1 or more, got {size!r}")
    images, labels, numbers = [], [], dict[str, int]()
    for name, data in _files(Path(path)):
        parts = PurePosixPath(name).parts[:-1]
        if not parts or (groups and not set(parts) & set(groups)):
            continue
        try:
            with Image.open(io.BytesIO(data)) as image:
                small = image.convert("L").resize((size, size), Image.Resampling.BOX)
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path}: {name} cannot be read as an image: {error}") from error
        images.append(1.0 - np.asarray(small, dtype=np.float32) / 255.0)
        labels.append(numbers.setdefault("/".join(parts[-2:]), len(numbers)))
    if not images:
        of = f" of {', '.join(sorted(groups))}" if groups else ""
        raise ValueError(f"{str(path)!r} holds no folder of images{of} ({', '.join(ENDINGS)})")
    return torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels), list(numbers)


def group_names(path: str | Path) -> list[str]:
    """Folders right above the classes, sorted: Omniglot's alphabets. The classes themselves where there are none."""
    parts = [PurePosixPath(name).parts for name, _ in _files(Path(path))]
    return sorted({p[max(0, len(p) - 3)] for p in parts if len(p) > 1})


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names, from the folder or archive on, and contents of all images, in the order of their names."""
    if path.is_dir():
        for name in sorted(filter(_is_image, (p.relative_to(path).as_posix() for p in path.rglob("*")))):
            yield name, (path / name).read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(filter(_is_image, archive.namelist())):
                yield name, archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} is neither a folder nor a zip archive: {error}") from error


def _is_image(name: str) -> bool:
    """Whether a name is that of an image, not of what macOS puts beside them."""
    return name.lower().endswith(ENDINGS) and not any(p == "__MACOSX" or p.startswith("._") for p in name.split("/"))
