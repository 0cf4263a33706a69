"""Parts i to l, on a machine with a GPU: scoring in memory, score stage, loading, whole job."""

import io
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import decode_jpeg

from pipeline.runs.schema import loaded_schema, pass_through_schema
from pipeline.scoring.config import ImagesConfig, ModelSourceConfig
from pipeline.scoring.resources import LOADER_KEPT_BYTES, keep_freed_memory
from pipeline.scoring.stages.load import PairLoader
from pipeline.scoring.stages.model import PRECISIONS, load_model
from pipeline.scoring.stages.score import PairScorer
from spips_core import SPIPS
from spips_core.image_ops import to_unit_range
from tests.bench.images import JPEG_QUALITIES, batch, cut, jpeg, write_manifest
from tests.bench.job import run_job
from tests.bench.scoring import alexnet
from tests.bench.timing import Table, medians

SIDES_PX = (256, 512, 1024)
JOB_ROWS = {256: (2_000, 32_000), 512: (1_000, 11_000), 1024: (500, 4_500)}
"""Rows of a short and of a long run, by the images' side."""


def models(*, compiled: bool) -> dict[tuple[str, str], SPIPS]:
    """Return each model in each precision, laid out on the GPU as a scorer of the job has it."""
    torch.backends.cudnn.allow_tf32 = False
    made = {}
    for precision, dtype in PRECISIONS.items():
        for name, make in (("embedded", SPIPS.load), ("alexnet", alexnet)):
            model = make().cuda()
            model.trunk.set_precision(dtype)
            if compiled:
                with torch.inference_mode():
                    model.compile_kernels()
            model.trunk.to(memory_format=torch.channels_last)
            made[name, precision] = model
    return made


def pairs_of(num_pairs: int, side_px: int) -> tuple[Tensor, Tensor]:
    """Return uint8 pairs in the CPU's memory; after eight, the same come again."""
    some = [images.contiguous(memory_format=torch.channels_last) for images in batch(8, side_px)]
    indices = torch.arange(num_pairs) % 8
    return some[0][indices], some[1][indices]


@torch.inference_mode()
def in_memory(repeats: int = 5) -> Table:
    """Return pairs per second from uint8 images on the GPU to scores in the CPU's memory."""
    kinds = {"eager": models(compiled=False), "compiled": models(compiled=True)}
    table = Table(
        "i. Scoring on the GPU, images in its memory",
        ["side, px", "model", "trunk", "kernels", "Mpx a batch", "pairs/s", "trunk, of peak"],
        notes=["Of peak: operations of the trunk's convolutions, over what a matrix product of "
               "8192 x 8192 reaches in the same number format (float32 without TF32)."],
    )  # fmt: skip
    peak = peaks()
    for side_px in SIDES_PX:
        for mega_pixels in (1, 4, 16):
            num_pairs = mega_pixels * 2**20 // side_px**2
            pair = [images.cuda() for images in pairs_of(num_pairs, side_px)]
            functions = {
                (*key, kind): partial(_score, model, *pair)
                for kind, made in kinds.items()
                for key, model in made.items()
            }
            seconds = medians(functions, repeats)
            images = to_unit_range(pair[0], torch.float32)
            trunks = {
                key: partial(_wait, model.trunk, images) for key, model in kinds["eager"].items()
            }
            trunk_s = medians(trunks, repeats)
            for name, precision, kind in functions:
                key = (name, precision)
                share = _flops(kinds["eager"][key].trunk, images[:1]) * num_pairs
                table.rows.append(
                    [str(side_px), *key, kind, str(mega_pixels),
                     num_pairs / seconds[(*key, kind)],
                     share / trunk_s[key] / peak[precision] if kind == "eager" else ""]
                )  # fmt: skip
    return table


def _score(model: SPIPS, reference: Tensor, distorted: Tensor) -> None:
    model.score(reference, distorted).score.cpu()


def _wait(function: torch.nn.Module, images: Tensor) -> None:
    function(images)
    torch.cuda.synchronize()


def _flops(net: torch.nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        net(image)
    return int(counter.get_total_flops())


def peaks(side: int = 8192) -> dict[str, float]:
    """Return the operations per second of a large matrix product, by number format."""
    torch.backends.cuda.matmul.allow_tf32 = False

    def multiply(a: Tensor) -> None:
        a @ a
        torch.cuda.synchronize()

    matrix = torch.rand(side, side, device="cuda")
    seconds = medians(
        {name: partial(multiply, matrix.to(dtype)) for name, dtype in PRECISIONS.items()}, 5
    )
    return {name: 2 * side**3 / taken for name, taken in seconds.items()}


def stage(repeats: int = 5) -> Table:
    """Return pairs per second of the score stage: from a block of loaded rows to its results."""
    table = Table(
        "j. The score stage on the GPU, from loaded rows to results",
        ["side, px", "trunk", "kernels", "rows a block", "Mpx a batch", "pairs/s"],
    )
    schema = pa.schema([("pair_id", pa.string())])
    digest = load_model(ModelSourceConfig()).digest
    for precision in PRECISIONS:
        for compiled in (False, True):
            source = ModelSourceConfig(precision=precision)
            scorer = PairScorer(source, digest, "bench", 1, schema, 2**22, True, compiled)
            for side_px in SIDES_PX:
                for num_rows, mega_pixels in ((16, 4), (64, 4), (256, 16)):
                    if num_rows * side_px**2 > 2**26:
                        continue
                    rows = loaded_rows(num_rows, side_px, schema)
                    scorer.pixels_per_batch = mega_pixels << 20
                    taken = medians({0: partial(scorer, rows)}, repeats)[0]
                    kernels = "compiled" if compiled else "eager"
                    table.rows.append(
                        [str(side_px), precision, kernels, str(num_rows), str(mega_pixels),
                         num_rows / taken]
                    )  # fmt: skip
    return table


def loaded_rows(num_rows: int, side_px: int, schema: pa.Schema) -> pa.Table:
    """Return rows as the load stage makes them."""
    pixels = [
        images.permute(0, 2, 3, 1).contiguous().numpy() for images in pairs_of(num_rows, side_px)
    ]
    columns = {
        "pair_id": [str(row) for row in range(num_rows)],
        "height_px": [side_px] * num_rows,
        "width_px": [side_px] * num_rows,
        "status": ["ok"] * num_rows,
        "error": [""] * num_rows,
        "fetch_retries": [0] * num_rows,
        "reference_pixels": [image.tobytes() for image in pixels[0]],
        "distorted_pixels": [image.tobytes() for image in pixels[1]],
    }
    full = loaded_schema(schema)
    return pa.table(
        {field.name: pa.array(columns.get(field.name, [None] * num_rows), field.type)
         for field in full}, schema=full,
    )  # fmt: skip


def load_rate(manifest: Path, seconds: float = 3.0) -> float:
    """Return the pairs per second that the load stage makes in this process."""
    rows = pq.read_table(manifest)
    columns = ("reference_uri", "distorted_uri")
    pass_through = pass_through_schema(rows.schema, columns)
    loader = PairLoader(ImagesConfig(), columns, pass_through, 2**22)
    keep_freed_memory(LOADER_KEPT_BYTES)
    list(loader.load(rows.slice(0, 32)))
    start_s, done = time.perf_counter(), 0
    while time.perf_counter() - start_s < seconds:
        done += sum(block.num_rows for block in loader.load(rows.slice(done % 256, 32)))
    return done / (time.perf_counter() - start_s)


def decoding(folder: Path, repeats: int = 5) -> Table:
    """Return pairs of JPEG files per second: the load stage on CPUs, and the GPU's nvJPEG."""
    cores = len(os.sched_getaffinity(0))
    table = Table(
        "k. Loading pairs of JPEG files, pairs/s",
        ["side, px", "load stage, one core", f"load stage, {cores} cores", "nvJPEG",
         "nvJPEG's largest difference"],
        notes=["The load stage fetches local files, decodes them, and packs pixels. nvJPEG: "
               "torchvision's decode_jpeg of 128 images at once, without fetching; its largest "
               "difference from Pillow's pixels, 0 to 255."],
    )  # fmt: skip
    # Processes of their own: decoding limits a process's memory, and CUDA takes much of it.
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for side_px in SIDES_PX:
            files = [jpeg(cut(n, side_px), JPEG_QUALITIES[n % 5]) for n in range(128)]
            encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
            manifest = write_manifest(folder / f"load-{side_px}", 320, side_px=side_px)
            one = pool.apply(load_rate, (manifest,))
            rates = pool.map(load_rate, [manifest] * cores, chunksize=1)

            def on_gpu(encoded: list[Tensor] = encoded) -> list[Tensor]:
                images: list[Tensor] = decode_jpeg(encoded, device="cuda")
                torch.cuda.synchronize()
                return images

            seconds = medians({0: on_gpu}, repeats)[0]
            expected = np.asarray(Image.open(io.BytesIO(files[4])), dtype=int)
            got = on_gpu()[4].permute(1, 2, 0).cpu().numpy().astype(int)
            difference = float(np.abs(got - expected).max())
            table.rows.append([str(side_px), one, sum(rates), 64 / seconds, difference])
    return table


def whole_job(folder: Path) -> Table:
    """Return the job's pairs per second: the rows by which a long run is longer than a short."""
    table = Table(
        "l. The whole job on one GPU: JPEG files to Parquet",
        ["side, px", "kernels", "pairs/s", "start and end, s", "command to exit, s"],
    )
    for side_px, rows in JOB_ROWS.items():
        paths = [write_manifest(folder / f"{side_px}", num, side_px=side_px) for num in rows]
        for compiled in ("false", "true"):
            times = [
                run_job(path, folder / f"{compiled}-{path.stem}-{side_px}",
                        f"--compute.compile={compiled}")
                for path in paths
            ]  # fmt: skip
            scoring = [each["scoring"] for each in times]
            rate = (rows[1] - rows[0]) / (scoring[1] - scoring[0])
            table.rows.append(
                [str(side_px), "compiled" if compiled == "true" else "eager", rate,
                 scoring[0] - rows[0] / rate, times[0]["exit"]]
            )  # fmt: skip
    return table
