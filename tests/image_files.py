"""Images drawn at random, and files that hold them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    text: Sequence[Any],
    column: str = "label",
    names: Sequence[str] | None = ("cat", "dog"),
) -> Path:
    feature = {"names": list(names), "_type": "ClassLabel"} if names else {"_type": "Value"}
    features = {"image": {"_type": "Image"}, column: feature}
    table = pa.table(
        {"image": [{"bytes": data, "path": None} for data in images], column: text},
    ).cast(
        pa.schema(
            [
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                (column, pa.array(text).type),
            ],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
    )
    pq.write_table(table, path, row_group_size=3)
    return path
