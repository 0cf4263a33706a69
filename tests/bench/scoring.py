"""Parts a, b and e: scoring in memory, what it is made of, and references that pairs share."""

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.runs.schema import pass_through_schema
from pipeline.scoring.config import ComputeConfig, ImagesConfig, ModelSourceConfig
from pipeline.scoring.resources import PIXELS_PER_CPU_BATCH, SCORER_KEPT_BYTES, keep_freed_memory
from pipeline.scoring.stages.load import PairLoader
from pipeline.scoring.stages.model import PRECISIONS, load_model
from pipeline.scoring.stages.score import PairScorer
from spips_core import SPIPS, ModelConfig
from spips_core.image_ops import to_unit_range, unit_length
from spips_core.quality import feature_means
from spips_core.quality_maps.ms_ssim import image_pyramid
from spips_core.quality_maps.ssim import BORDER_PX
from tests.bench.images import batch, write_manifest
from tests.bench.timing import Table, medians

PIXELS_PER_CALL = 8 * 256 * 256


def alexnet() -> SPIPS:
    """Return a model on AlexNet's trunk; random weights take as long as trained ones."""
    model = SPIPS(ModelConfig(backbone="alexnet"))
    model.trunk.initialise()
    return model.eval()


def models(*, compiled: bool) -> dict[tuple[str, str], SPIPS]:
    """Return each model in each precision, laid out as a scorer of the job has it."""
    made = {}
    for precision, dtype in PRECISIONS.items():
        for name, make in (("embedded", SPIPS.load), ("alexnet", alexnet)):
            model = made[name, precision] = make()
            model.trunk.set_precision(dtype)
            model.trunk.to(memory_format=torch.channels_last)
            if compiled:
                model.compile_kernels()
    return made


def peers() -> Callable[[Tensor, Tensor], None]:
    """Return what users run today for the same columns: lpips, and piq's SSIM, MS-SSIM, PSNR."""
    import piq

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lpips

        net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()

    @torch.no_grad()
    def score(reference: Tensor, distorted: Tensor) -> None:
        reference, distorted = reference / 255, distorted / 255
        net(reference, distorted, normalize=True)
        for metric in (partial(piq.ssim, downsample=False), piq.multi_scale_ssim, piq.psnr):
            metric(distorted, reference, data_range=1.0, reduction="none")

    return score


def against_peers(sides_px: tuple[int, ...] = (256, 512, 1024), repeats: int = 9) -> Table:
    keep_freed_memory(SCORER_KEPT_BYTES)
    threads = torch.get_num_threads()
    kinds = {"eager": models(compiled=False), "compiled": models(compiled=True)}
    others = peers()
    table = Table(
        f"a. Scoring in memory, {threads} threads",
        ["side, px", "model", "trunk", "pairs/s, eager", "pairs/s, compiled", "peers' pairs/s",
         "eager / peers", "compiled / peers"],
        notes=["Peers: lpips 0.1 (AlexNet), and piq's SSIM, MS-SSIM and PSNR, which give the same "
               "columns, in float32. The same threads, batches and memory allocator for all."],
    )  # fmt: skip
    for side_px in sides_px:
        num_pairs = max(1, PIXELS_PER_CALL // side_px**2)
        pair = batch(num_pairs, side_px)
        functions: dict[object, Callable[[], object]] = {"peers": partial(others, *pair)}
        for kind, made in kinds.items():
            functions |= {(kind, *key): partial(model.score, *pair) for key, model in made.items()}
        seconds = medians(functions, repeats)
        theirs = seconds["peers"]
        for key in kinds["eager"]:
            ours = [seconds[kind, *key] for kind in kinds]
            rates = [num_pairs / s for s in (*ours, theirs)]
            table.rows.append([str(side_px), *key, *rates, *(theirs / s for s in ours)])
    return table


def ceilings(repeats: int = 7) -> dict[str, float]:
    """Return what one thread of this machine does at most: multiply-adds, and copies."""
    side = 1536
    a, b = (torch.rand(side, side) for _ in range(2))
    source = torch.rand(64 * 2**20 // 4)
    target = torch.empty_like(source)
    seconds = medians(
        {
            "float32": lambda: a @ b,
            "bfloat16": partial(torch.matmul, a.bfloat16(), b.bfloat16()),
            "copy": lambda: target.copy_(source),
        },
        repeats,
    )
    return {
        "float32": 2 * side**3 / seconds["float32"],
        "bfloat16": 2 * side**3 / seconds["bfloat16"],
        "copy": 2 * source.nbytes / seconds["copy"],
    }


@torch.no_grad()
def shares(side_px: int = 256, repeats: int = 15) -> Table:
    """Part b: what a pair's score is made of, as the job scores it: a few together, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory(SCORER_KEPT_BYTES)
    most = ceilings()
    compiled = models(compiled=True)
    model = compiled["embedded", "float32"]
    num_pairs = max(1, PIXELS_PER_CPU_BATCH // side_px**2)
    reference, distorted = batch(num_pairs, side_px)
    images = to_unit_range(reference, torch.float32)
    taps = model.trunk(images)
    one, two = model.encode(reference), model.encode(distorted)
    planes = [
        (r.flatten(0, 1), d.flatten(0, 1)) for r, d in zip(one.pyramid, two.pyramid, strict=True)
    ]
    inside = (..., slice(BORDER_PX, -BORDER_PX), slice(BORDER_PX, -BORDER_PX))

    def tradition() -> None:
        model.kernels.finest_means(*planes[0])
        for of_scale in planes[1:]:
            model.kernels.structure_means(*of_scale)

    both = torch.cat([reference, distorted])

    def score(each: SPIPS) -> None:
        each.compare(*each.encode_parts(both, [num_pairs, num_pairs], batch_invariant=True))

    parts: dict[str, tuple[int, Callable[[], object]]] = {
        "trunk": (2, partial(model.trunk, images)),
        "features to unit length": (2, lambda: [unit_length(tap) for tap in taps]),
        "8 bits to [0, 1]": (
            2, lambda: to_unit_range(reference, torch.float32)
        ),
        "pyramid with borders": (2, lambda: image_pyramid(images.contiguous())),
        "traditional maps": (1, tradition),
        "deep maps": (1, lambda: feature_means(one.features, two.features)),
    }  # fmt: skip
    functions: dict[object, Callable[[], object]] = {key: part for key, (_, part) in parts.items()}
    for key, each in compiled.items():
        functions["pair", key] = partial(score, each)
        functions["trunk", key] = partial(each.trunk, images)
    seconds = {key: taken / num_pairs for key, taken in medians(functions, repeats).items()}
    of_trunk = {key: 2 * _flops(each.trunk, images[:1]) for key, each in compiled.items()}
    pixels = sum(r[inside].numel() for r, _ in planes) // num_pairs
    operations = {"trunk": of_trunk["embedded", "float32"],
                  "traditional maps": pixels * (4 * 22 * 2 + 25)}  # fmt: skip
    pair_bytes = 2 * reference[0].nbytes
    table = Table(
        f"b. A pair of {side_px} px, compiled, on one thread, {num_pairs} together",
        ["model, trunk", "part", "times", "ms a pair", "share", "of the ceiling"],
        notes=[
            f"Ceilings of one thread: float32 {most['float32'] / 1e9:.0f} GFLOP/s, bfloat16 "
            f"{most['bfloat16'] / 1e9:.0f} GFLOP/s, copies {most['copy'] / 1e9:.1f} GB/s (read and "
            "written). They drift as all else does, and were measured just before.",
            f"The pair's bytes, read once, would take {1e3 * pair_bytes / most['copy']:.3f} ms; "
            f"embedded's operations {1e3 * sum(operations.values()) / most['float32']:.2f} ms at "
            "the float32 ceiling.",
        ],
    )
    whole_s = seconds["pair", ("embedded", "float32")]
    for name, (times, _) in parts.items():
        taken = times * seconds[name]
        peak = operations[name] / taken / most["float32"] if name in operations else ""
        table.rows.append(
            ["embedded, float32", name, str(times), 1e3 * taken, taken / whole_s, peak]
        )
    for key, count in of_trunk.items():
        whole_s, taken = seconds["pair", key], 2 * seconds["trunk", key]
        peak = count / taken / most[key[1]]
        title = ", ".join(key)
        table.rows.append([title, "whole pair", "", 1e3 * whole_s, 1.0, ""])
        table.rows.append([title, "trunk", "2", 1e3 * taken, taken / whole_s, peak])
    torch.set_num_threads(threads)
    return table


def _flops(net: torch.nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        net(image)
    return int(counter.get_total_flops())


def scorer_of(
    source: ModelSourceConfig, pass_through: object, *, compile_kernels: bool
) -> PairScorer:
    """Return a scorer of the job's, on one thread of a CPU."""
    digest = load_model(source).digest
    pixels = ComputeConfig().pixels_per_batch
    return PairScorer(source, digest, "bench", 1, pass_through, pixels, False, compile_kernels)


def shared_references(
    folder: Path, *, num_rows: int = 320, repeats: int = 5, weights: str | None = None
) -> Table:
    """Part e: loading and scoring in one process, one thread, with references shared by pairs."""
    threads = torch.get_num_threads()
    checkpoints = {"embedded": ModelSourceConfig()}
    if weights:
        checkpoints["alexnet"] = ModelSourceConfig(checkpoint="alexnet", backbone_weights=weights)
    table = Table(
        "e. Pairs that share a reference, 256 px JPEG, loaded and scored on one thread",
        ["model", "pairs per reference", "pairs/s", "against 1"],
        notes=["" if weights else "AlexNet's weights were not given (--alexnet-weights)."],
    )
    for name, source in checkpoints.items():
        functions, scorer = {}, None
        for shared in (1, 4, 16):
            manifest = pq.read_table(
                write_manifest(
                    folder / f"shared-{shared}", num_rows, side_px=256, pairs_per_reference=shared
                )
            )
            columns = ("reference_uri", "distorted_uri")
            pass_through = pass_through_schema(manifest.schema, columns)
            loader = PairLoader(ImagesConfig(), columns, pass_through, 2**22)
            scorer = scorer or scorer_of(source, pass_through, compile_kernels=True)

            def run(rows=manifest, loader=loader, score=scorer) -> None:  # type: ignore[no-untyped-def]
                score.kept.clear()  # a scorer gives the same images their scores again
                for start in range(0, rows.num_rows, 64):
                    for block in loader.load(rows.slice(start, 64)):
                        score(block)

            functions[shared] = run
        seconds = medians({str(k): f for k, f in functions.items()}, repeats)
        for shared in functions:
            rate = num_rows / seconds[str(shared)]
            table.rows.append([name, str(shared), rate, seconds["1"] / seconds[str(shared)]])
    torch.set_num_threads(threads)
    return table


def num_cores() -> int:
    return len(os.sched_getaffinity(0))
